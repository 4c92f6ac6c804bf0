"""A place of our own in the kernel, which goes with its last process and leaves nothing behind.

User (where not root), mount, PID and network namespaces: all that a run makes (interfaces, sockets, files on a private
``/run``) is seen from inside only. The first process inside is the PID namespace's init, so when it ends, however it
ends, the kernel ends every other process of the run.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from qtunnel.errors import SandboxError

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/sockios.h, linux/if.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID = 2
MS_NODEV = 4
MS_REC = 0x4000
MS_PRIVATE = 0x40000
PR_SET_PDEATHSIG = 1
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
IFREQ = struct.Struct("16sh14x")  # interface name, flags

TUN = Path("/dev/net/tun")
THREAD_NETWORK = "/proc/thread-self/ns/net"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

REMEDY = (
    "run it as root, or allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; "
    "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0 where they exist); "
    "in a container add SYS_ADMIN, NET_ADMIN and NET_RAW and the device /dev/net/tun"
)

TUN_REMEDIES = {
    **dict.fromkeys((errno.ENOENT, errno.ENODEV, errno.ENXIO), "load it with: modprobe tun"),
    errno.EACCES: f"its mode keeps other users out: run, as root: chmod 0666 {TUN} (an interface still needs "
    "CAP_NET_ADMIN), or run this as root",
}
"""By what opening it says; anything else is for ``REMEDY``."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number).lower()}")


def _refused(error: OSError, what: str) -> SandboxError:
    return SandboxError(f"{what} cannot make namespaces of its own ({error.strerror}); {REMEDY}")


def enter(what: str) -> None:
    """Move this process into namespaces of its own, with a private, empty ``/run``; its children come with it.

    Only with a single thread. what: who enters, for messages, e.g. "the demo". Raises ``SandboxError`` that says what
    to do where the kernel does not allow it.
    """
    check_tun()
    wanted = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            if uid != 0:
                raise PermissionError
            _checked(_libc.unshare(wanted), "unshare")
        except PermissionError:  # an ordinary user, or root without CAP_SYS_ADMIN
            _checked(_libc.unshare(wanted | CLONE_NEWUSER), "unshare")
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1")
            _write("/proc/self/gid_map", f"0 {gid} 1")
        _checked(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
        mount_tmpfs("/run")
        loopback_up()
    except OSError as error:
        raise _refused(error, what) from None


def check_tun() -> None:
    """Raises ``SandboxError`` where there is no TUN device to be had."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = TUN_REMEDIES.get(error.errno or 0, REMEDY)
        raise SandboxError(f"{TUN}: {(error.strerror or str(error)).lower()}; {remedy}") from None


def loopback_up() -> None:
    """The loopback interface of the present network namespace up; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        flags = IFREQ.unpack(fcntl.ioctl(probe, SIOCGIFFLAGS, IFREQ.pack(b"lo", 0)))[1]
        fcntl.ioctl(probe, SIOCSIFFLAGS, IFREQ.pack(b"lo", flags | IFF_UP))


def mount_tmpfs(place: str) -> None:
    _checked(_libc.mount(b"tmpfs", place.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755"), f"mount {place}")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        os.close(descriptor)


def run_as_init(main: Callable[[], int], what: str) -> int:
    """Fork, run ``main`` as the first process of the PID namespace, pass signals on to it, return its exit code.

    ``main`` finds SIGINT and SIGTERM raising ``KeyboardInterrupt``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # none is lost while the handlers are put up
    child = os.fork()
    if child == 0:
        _be_init(main, what)

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _be_init(main: Callable[[], int], what: str) -> None:
    code = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for number in FORWARDED:
            signal.signal(number, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        code = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        os.write(2, f"qtunnel: interrupted before {what} began\n".encode())
    except BrokenPipeError:
        pass  # nobody reads any more
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        os.write(2, f"qtunnel: {what} failed unexpectedly: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


class Network:
    """A network namespace, with ``lo`` up; closed with its last user."""

    def __init__(self) -> None:
        home = os.open(THREAD_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.unshare(CLONE_NEWNET), "unshare")
            try:
                self.descriptor = os.open(THREAD_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
                loopback_up()
            finally:
                _checked(_libc.setns(home, CLONE_NEWNET), "setns")
        finally:
            os.close(home)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside; what it starts or opens meanwhile stays there."""
        home = os.open(THREAD_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(self.descriptor, CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _checked(_libc.setns(home, CLONE_NEWNET), "setns")
        finally:
            os.close(home)
