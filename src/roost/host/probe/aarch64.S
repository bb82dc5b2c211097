# That a guest runs at all, for machine `virt`: the guest of the accelerator's probe on aarch64, from flash at 0.
#
#   R  it runs
#
# Build: aarch64-linux-gnu-as aarch64.S -o probe.o && aarch64-linux-gnu-objcopy -O binary probe.o aarch64.bin

        mov x1, #0x09000000             // PL011 UART
        mov w0, #'R'
        str w0, [x1]
        mov w0, #'.'
        str w0, [x1]
        movz w0, #8                     // PSCI SYSTEM_OFF
        movk w0, #0x8400, lsl #16
        hvc #0
1:      wfi
        b 1b
