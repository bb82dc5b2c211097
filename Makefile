# For fingers that type `make`: every target is a command of ./dev, and ./dev alone lists them.
COMMANDS := up down test test-unit test-contract test-host test-lab test-e2e lint fmt bench docs lock clean

.PHONY: help test-full $(COMMANDS)
help:
	@./dev

test-full:
	@./dev test full

$(COMMANDS):
	@./dev $@
