"""What a guest needs after it slept or was cloned: the right time, and random numbers of its own.

Callers: the agent, after a wake or a clone. It must not know why the guest needs it.
"""

from __future__ import annotations

import time
from contextlib import suppress

from roost.errors import CommandRejected, DeniedError, NotFoundError
from roost.guest.agent import GuestAgent

_RESEED_NOW = (
    ("perl", "-e", 'open(my $rng, ">", "/dev/urandom") && ioctl($rng, 0x5207, 0) or exit 1'),
    ("python3", "-c", "import fcntl; fcntl.ioctl(open('/dev/urandom', 'wb'), 0x5207)"),
)
"""RNDRESEEDCRNG, _IO('R', 7), with what a Linux guest is likely to have."""


async def set_clock(guest: GuestAgent, *, tolerance_s: float = 2.0) -> float:
    """Set the guest's clock to the host's; returns by how many seconds the guest's is ahead afterwards.

    Where the agent cannot (a Linux guest without hwclock), `date` in the guest does it.

    Raises:
        CommandRejected: neither worked: the clock is off by more than `tolerance_s`.
        OutcomeUnknown: the guest did not confirm.
    """
    await guest.ping()  # connecting takes time, and must not take it from the guest
    try:
        await guest.set_time(time.time_ns())
    except CommandRejected:
        # The agent also says so when the clock was set, and only the RTC was not.
        if abs(ahead_s := await _ahead_s(guest)) <= tolerance_s:
            return ahead_s
        # GNU's date takes a fraction, busybox's does not.
        script = 'date -u -s "@$1" || date -u -s "@${1%.*}"'
        await guest.exec(["sh", "-c", script, "date", f"{time.time():.6f}"])
        if abs(ahead_s := await _ahead_s(guest)) <= tolerance_s:
            return ahead_s
        raise
    return await _ahead_s(guest)


async def _ahead_s(guest: GuestAgent) -> float:
    before = time.time_ns()
    there = await guest.time_ns()
    return (there - (before + time.time_ns()) / 2) / 1e9


async def reseed(guest: GuestAgent, entropy: bytes) -> bool:
    """Mix `entropy` into the random numbers of a Linux guest; returns whether they already depend on it.

    True: the kernel was told to use it at once, which needs perl or Python in the guest. False: it does so with its
    next reseeding, within a minute; until then two clones of one guest may draw the same numbers.

    Args:
        entropy: 32 bytes or more, from the host's generator, for this guest alone.

    Raises:
        CommandRejected: the guest has no /dev/urandom, or its agent may not write there.
        BackendError: as `GuestFiles.write`.

    Source: Linux drivers/char/random.c, 6.1: `write_pool_user` mixes and does not reseed; `CRNG_RESEED_INTERVAL` is
    60 s; `RNDRESEEDCRNG` reseeds at once.
    """
    try:
        await guest.files.write("/dev/urandom", entropy)
    except (NotFoundError, DeniedError) as error:
        raise CommandRejected(error.message, backend="qga") from error
    for argv in _RESEED_NOW:
        with suppress(CommandRejected):  # no such program, or exec is disabled
            if (await guest.exec(argv)).exit_code == 0:
                return True
    return False


async def kernel_log(guest: GuestAgent) -> str:
    """The log of a Linux guest's kernel, for whoever looks for a line in it; untrusted, control characters included.

    A kernel with a VMGENID driver writes "crng reseeded due to virtual machine fork" each time that it was told so
    (Linux drivers/char/random.c, `add_vmfork_randomness`, 5.18): count the lines before and after.

    Raises:
        CommandRejected: the guest has no dmesg, or it failed.
        OutcomeUnknown: it did not end in time.
    """
    result = await guest.exec(["dmesg"])
    if result.exit_code != 0:
        raise CommandRejected(
            "dmesg failed in the guest", backend="qga", context={"exit_code": result.exit_code}
        )
    return result.stdout.decode(errors="replace")
