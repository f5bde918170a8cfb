#!/usr/bin/env python3
"""worker.py finds the Nth prime: GET /N answers with p(N) and a newline.

One of these runs on every server behind the load balancer. It needs Python 3.9 or newer on Linux and
nothing but the standard library. The nodes call it; so can anybody with curl:

    $ python3 worker.py &
    worker listening on 0.0.0.0:13337
    $ curl localhost:13337/1000000
    15485863

The file has four parts, and each can be read alone:

  1. The mathematics: p(N) by counting primes, not by listing them (the method of Lagarias, Miller and
     Odlyzko, 1985, on the foundation of Meissel, 1870). p(10^9) takes a third of a second of pure Python.
  2. The computations: each runs in a process of its own, so that the kernel's scheduler shares the cores
     between them. This part starts those processes, limits their number, and ends them.
  3. The HTTP server: Python's http.server, with one thread for each connection and a bound on everything.
  4. The program: command line, log, signals.
"""

import signal

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
if __name__ == "__main__":
    # From the first instant the stop signals are blocked: the kernel keeps them until main() waits for
    # them, so that none is lost and none becomes a traceback. Threads and children inherit the block: a
    # Ctrl-C in a terminal reaches all of them, and main() alone decides.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

import argparse
import bisect
import contextlib
import errno
import fcntl
import gc
import http.server
import io
import itertools
import math
import os
import re
import resource
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
from array import array
from bisect import bisect_right
from itertools import accumulate, compress

VERSION = "0.1.0"

# ---------------------------------------------------------------------------------------------------
# 1. The mathematics
# ---------------------------------------------------------------------------------------------------
#
# To find the billionth prime one could sieve all numbers up to 22,801,763,489. But to know *which* prime
# is the billionth it is enough to know *how many* there are below some point close to it, and counting is
# far cheaper than listing:
#
#   a. guess:  x, close to p(N), from Riemann's formula for the density of primes (off by less than a
#              millionth of x for N of interest);
#   b. count:  pi(x), the number of primes up to x, exactly, in about x^(3/4) cheap steps;
#   c. walk:   from x to the right prime with an ordinary sieve over a short stretch.
#
# Step b is exact, so the guess can only cost time, never the answer.
#
# The trick that makes Python fast enough: a bytearray is sieved by slice assignment and counted by
# .count(), and both run in C over millions of bytes per millisecond. The method is arranged so that
# nearly all work is of these two kinds.
#
# Odd numbers only: in every flag array, index i stands for the odd number 2i+1 (plus an even start).

N_MAX = 10**12
"""The greatest N that is answered: p(10^12) = 29,996,224,275,833 costs about half a minute of one core
and 30 MB. Beyond it an answer would outlast the balancer's own deadline (300 s) on a busy machine."""

TABLE_PRIMES = 100_000
"""So many primes are kept in a table (400 KB); up to here an answer is a look-up."""

TABLE_LIMIT = 1_299_709
"""p(100,000), the last prime of the table."""

COUNT_FROM = 30_000
"""prime_count is correct from 13^4 = 28,561 on, see there; below, sieve."""


def odd_sieve(limit):
    """Flags of the odd numbers up to `limit`: 1 for a prime. Eratosthenes. Index 0, the number 1, is left
    set: it stands in for the only even prime, so that counts of flags are counts of primes (from 2 on)."""
    flags = bytearray(b"\1") * ((limit + 1) // 2)
    for i in range(1, (math.isqrt(limit) + 1) // 2):
        if flags[i]:
            p = 2 * i + 1
            strike(flags, p * p // 2, p)
    return flags


def strike(flags, first, step):
    """Clear every `step`-th flag from index `first` on. A step of p indices is a step of 2p in numbers:
    the even multiples of p were never there."""
    flags[first::step] = bytes(len(range(first, len(flags), step)))


def first_odd_multiple(p, start):
    """The index, counted from the even number `start`, of the first odd multiple of p above it."""
    return (((start // p + 1) | 1) * p - start) // 2


# The wheel: which numbers survive when the multiples of the first six primes are struck out repeats with
# period 2*3*5*7*11*13 = 30030, that is 15015 odd numbers. So those six primes never need a pass of their own.
WHEEL_PRIMES = (2, 3, 5, 7, 11, 13)
WHEEL_ODDS = 15015


def _wheel():
    flags = bytearray(b"\1") * WHEEL_ODDS
    for p in WHEEL_PRIMES[1:]:
        strike(flags, p // 2, p)
    return bytes(flags)


WHEEL = _wheel()
WHEEL_SUMS = array("i", accumulate(WHEEL, initial=0))

SEGMENT_ODDS = WHEEL_ODDS * 64
"""Flags sieved at a time: 960,960 bytes, a size that stays in the processor's cache. A multiple of the
wheel's period, so that every segment starts as a copy of the same pattern."""

SEGMENT_PATTERN = WHEEL * 64

LEAF_BALANCE = 120
"""Where the split point y = sqrt(x / LEAF_BALANCE) lies. A greater y means more leaves to evaluate, a
smaller y a longer stretch to sieve. Measured best between 60 and 240 for N from 10^8 to 10^11; any value
gives the same answer."""


def phi_wheel(v):
    """phi(v, 6): how many of 1..v are divisible by none of the first six primes."""
    turns, rest = divmod((v + 1) // 2, WHEEL_ODDS)
    return turns * WHEEL_SUMS[WHEEL_ODDS] + WHEEL_SUMS[rest]


def prime_count(x):
    """pi(x), the number of primes up to x, for x >= COUNT_FROM. Exact.

    Write phi(v, b) for the count of numbers in 1..v that none of the first b primes p_1..p_b divides.
    Choose y between the cube root and the square root of x, and let a = pi(y). Of the numbers up to x,
    those counted by phi(x, a) are: 1; the primes above y; and the products of exactly two primes above y
    (three would exceed x). Hence Meissel's formula

        pi(x) = phi(x, a) + a - 1 - P2,     P2 = sum over primes y < q <= sqrt(x) of (pi(x/q) - pi(q) + 1)

    For phi there is the recurrence "strike the multiples of p_b":

        phi(v, b) = phi(v, b-1) - phi(v/p_b, b-1)

    Unfolding it gives a tree whose nodes are +-phi(x/m, b). Lagarias, Miller and Odlyzko stop at two
    kinds of leaves:

      ordinary:  m <= y, and b is down to 6, where the wheel knows phi at once;
      special:   m <= y but m * p_b > y, the node  -mu(m) * phi(x/(m*p_b), b-1),  with all primes of m
                 greater than p_b. Since x/(m*p_b) < x/y, a sieve of that length sees every one of them.

    (mu is Moebius' function: 0 if a square divides m, else +1 or -1 for an even or odd number of primes.)
    The special leaves with p_b above the fourth root of x are easy: m must be one prime q then, and
    x/(p_b*q) is less than p_b squared, so that what phi counts is 1 and the primes from p_b on.
    For the others, the hard ones, the sieve is run prime after prime, and phi(v, b-1) is the number of flags
    still standing up to v just before the multiples of p_b are struck out.
    """
    assert x >= COUNT_FROM, "the fourth root must not lie below the wheel's last prime"
    root = math.isqrt(x)
    fourth_root = math.isqrt(root)
    # The cube root in floating point may be one off; y need not be exact but must not lie below it.
    y = min(max(math.isqrt(x // LEAF_BALANCE), int(x ** (1 / 3)) + 2), root)

    flags = odd_sieve(root)
    # pi(v) for 2 <= v <= sqrt(x) is pi_table[(v-1)//2].
    pi_table = array("i", accumulate(flags))
    primes = array("i", [2])
    primes.extend(compress(range(3, root + 1, 2), flags[1:]))
    a = pi_table[(y - 1) // 2]
    hard = pi_table[(fourth_root - 1) // 2]  # p_b is at most the fourth root for b <= hard

    composites, signs = leaf_numbers(y, primes, a)
    phi = 0
    for m, sign in zip(composites, signs):
        phi += phi_wheel(x // m) if sign > 0 else -phi_wheel(x // m)
    phi += easy_leaves(x, y, primes, pi_table, a, hard)
    phi_hard, p2 = hard_leaves_and_p2(x, y, root, primes, pi_table, a, hard, composites, signs)
    return phi + phi_hard + a - 1 - p2


FLIP = bytes([1, 0]) + bytes([2]) * 254
SQUARE = 2


def leaf_numbers(y, primes, a):
    """The numbers m <= y that can stand in a leaf: free of squares and of the wheel's primes, ascending,
    beside a number that holds two facts: its sign is mu(m), its size the least prime that divides m
    (or y, where that prime is above sqrt(y): no one asks further)."""
    odds = (y + 1) // 2
    root = math.isqrt(y)
    least = array("i", [y]) * odds
    # 0 or 1: an even or odd number of primes so far; SQUARE: a square divides it. Found as a sieve finds
    # primes: every prime flips its multiples. The greatest prime first, so that the least has the last word.
    parity = bytearray(odds)
    for p in reversed(primes[len(WHEEL_PRIMES):a]):
        parity[p // 2 :: p] = parity[p // 2 :: p].translate(FLIP)
        if p <= root:
            least[p // 2 :: p] = array("i", [p]) * len(range(p // 2, odds, p))
            square = p * p
            parity[square // 2 :: square] = bytes([SQUARE]) * len(range(square // 2, odds, square))
    wheel = WHEEL * (odds // WHEEL_ODDS + 1)
    keep = bytes([w and state != SQUARE for w, state in zip(wheel, parity)])
    numbers = array("i", compress(range(1, 2 * odds, 2), keep))
    signs = array("i", [-p if odd else p for p, odd in compress(zip(least, parity), keep)])
    return numbers, signs


def easy_leaves(x, y, primes, pi_table, a, hard):
    """The sum over pairs of primes p_b < q <= y, with p_b above the fourth root of x, of phi(x/(p_b*q), b-1).

    Each is 1 (for the number 1) plus the primes from p_b to x/(p_b*q), which are pi(x/(p_b*q)) - (b-1) if
    that reaches p_b, else none. The product of two primes from p_b on is out of reach: p_b^2 > sqrt(x)."""
    pairs = a - hard
    total = pairs * (pairs - 1) // 2
    for b0 in range(hard, a):  # b0 = b - 1, for lists count from 0
        p = primes[b0]
        quotient = x // p
        q_max = min(quotient // p, y)
        if q_max <= p:
            break  # so it is for every greater p
        end = pi_table[(q_max - 1) // 2]
        total += sum([pi_table[(quotient // q - 1) // 2] for q in primes[b0 + 1 : end]])
        total -= b0 * (end - b0 - 1)
    return total


def hard_leaves_and_p2(x, y, root, primes, pi_table, a, hard, composites, signs):
    """Two sums for one pass of a sieve over 1..x/y, segment by segment: the special leaves with p_b up to
    the fourth root of x, and P2. The memory is one segment, however long the pass."""
    phi, p2 = 0, 0
    y_root = math.isqrt(y)
    carried = [0] * hard  # phi(start of the segment, b-1) for each b
    pi_carried = pi_table[(root - 1) // 2]  # pi(x/q) is wanted from sqrt(x) on
    q_next = len(primes) - 1  # the index of the greatest q that P2 has not had yet
    for start in range(0, x // y + 1, 2 * SEGMENT_ODDS):
        length = min(SEGMENT_ODDS, (x // y - start) // 2 + 1)
        end = start + 2 * length  # the segment holds the numbers v with start <= v < end
        segment = bytearray(SEGMENT_PATTERN[:length])
        count = segment.count

        struck = len(WHEEL_PRIMES)
        while struck < hard:
            p = primes[struck]
            quotient = x // p
            if quotient // p < start:
                break  # m > p, so no leaf of this p, or of a greater one, lies this far out
            # The leaves in this segment: v = x/(m*p) with start <= v < end, and y/p < m <= y.
            m_above = max(y // p, quotient // end, p)
            m_last = min(y, quotient // start) if start else y
            standing, position = carried[struck], 0
            if m_above < m_last:
                # From the greatest m down, so that v rises, and each flag is counted once.
                if p > y_root:  # m is a prime: it has no room for two primes above p
                    for m in reversed(primes[bisect_right(primes, m_above) : bisect_right(primes, m_last)]):
                        place = (quotient // m - start + 1) // 2
                        standing += count(1, position, place)
                        position = place
                        phi += standing
                else:
                    first, last = bisect_right(composites, m_above), bisect_right(composites, m_last)
                    for m, sign in zip(reversed(composites[first:last]), reversed(signs[first:last])):
                        if -p <= sign <= p:
                            continue  # p, or a lesser prime, divides m
                        place = (quotient // m - start + 1) // 2
                        standing += count(1, position, place)
                        position = place
                        phi += standing if sign < 0 else -standing
            carried[struck] = standing + count(1, position)
            strike(segment, first_odd_multiple(p, start), p)
            struck += 1

        if end > root:
            # Finish the sieve, so that above sqrt(x) only primes stand, and count on to each x/q.
            end_root = math.isqrt(end)
            while struck < a and primes[struck] <= end_root:
                p = primes[struck]
                strike(segment, first_odd_multiple(p, start), p)
                struck += 1
            position = max(0, (root - start + 1) // 2)
            q_stop = bisect_right(primes, max(y, x // end))
            for q_index in range(q_next, q_stop - 1, -1):
                place = (x // primes[q_index] - start + 1) // 2
                pi_carried += count(1, position, place)
                position = place
                p2 += pi_carried - q_index  # pi(q) - 1 is the index of q
            q_next = q_stop - 1
            pi_carried += count(1, position)
    return phi, p2


def riemann_r(x):
    """Riemann's R(x), the smooth curve nearest to pi(x), by Gram's series: 1 + sum (ln x)^k / (k k! zeta(k+1)).
    All terms are positive, so nothing cancels and floating point is good to about 12 digits."""
    log_x = math.log(x)
    total, power = 1.0, 1.0
    for k in range(1, 400):
        power *= log_x / k
        term = power / (k * _zeta(k + 1))
        total += term
        if term < total * 1e-17:
            break
    return total


def _zeta(s):
    """Riemann's zeta(s) for whole s >= 2: nine terms, and Euler and Maclaurin's word for the rest."""
    n = 10
    rest = n ** (1 - s) / (s - 1) + n**-s / 2 + s * n ** (-s - 1) / 12
    return sum(k**-s for k in range(1, n)) + rest


def estimate(n):
    """A number close to p(n): the x with R(x) = n, by Newton's method. The slope of R is about 1 / ln x."""
    x = n * (math.log(n) + math.log(math.log(n)) - 1)
    for _ in range(50):
        step = (riemann_r(x) - n) * math.log(x)
        x -= step
        if abs(step) < 1:
            break
    return int(x)


def primes_in(start, end):
    """Flags of the odd numbers between the even numbers `start` and `end`, both above the square of every
    prime that matters: 1 for a prime."""
    flags = bytearray(b"\1") * ((end - start) // 2)
    sieve = odd_sieve(math.isqrt(end))
    for p in compress(range(3, 2 * len(sieve), 2), sieve[1:]):
        strike(flags, first_odd_multiple(p, start), p)
    return flags


def walk(n, x, below):
    """p(n), from the even number x, below which there are `below` primes: back while that is too many, then on."""
    width = max(1 << 15, math.isqrt(x) // 4 * 2)
    while below >= n:
        below -= primes_in(x - width, x).count(1)
        x -= width
    while True:
        flags = primes_in(x, x + width)
        found = flags.count(1)
        if below + found >= n:
            break
        below += found
        x += width
    place = -1
    for _ in range(n - below):
        place = flags.find(1, place + 1)
    return x + 2 * place + 1


def _table():
    flags = odd_sieve(TABLE_LIMIT)
    table = array("i", [2])
    table.extend(compress(range(3, TABLE_LIMIT + 1, 2), flags[1:]))
    return table


TABLE = _table()
assert len(TABLE) == TABLE_PRIMES


def nth_prime(n):
    """p(n), exactly, for 1 <= n <= N_MAX."""
    if n <= TABLE_PRIMES:
        return TABLE[n - 1]
    x = estimate(n) // 2 * 2
    return walk(n, x, prime_count(x))


# ---------------------------------------------------------------------------------------------------
# 2. The computations
# ---------------------------------------------------------------------------------------------------
#
# The threads of one Python process share one core, so a computation needs a process of its own. fork(2) makes
# one in a millisecond, but it copies only the thread that calls it: a lock that another thread holds at that
# moment stays locked in the copy for ever. The HTTP server is full of threads. Hence a *fork server*: this
# same file, run once more, without threads, that does nothing but fork.
#
#     HTTP server ------ (N, channel) ------> fork server ------ fork ------> a process for this N
#          ^                                                                       |
#          +--------------------- p(N), through the channel -----------------------+
#
# The channel is a pair of connected sockets. It is also the leash: when the HTTP server closes its end, or
# dies in whatever way, the kernel tells the computing process, and that process ends too.

SMALL_N_MAX = 10**8  # up to here N is small: below a tenth of a second. Some places are kept for small N
NICE_SMALL, NICE_BIG = 5, 10  # see nice(2): computing yields to who hears clients, a big N to a small one
N_PER_SECOND = 10**10  # in the queue a small N goes first, but a second of waiting weighs as much as this
STAYING_MAX = 4  # so many processes stay after a small N, for the next one
ATTEMPTS_MAX = 2  # a computation whose process was killed (when memory is short, say) is tried once more
MESSAGE_BYTES_MAX = 64


class Job:
    """One N that a thread waits for. The answer comes on `channel`; an end of file there means: it failed."""

    serial = itertools.count()

    def __init__(self, n):
        self.n = n
        self.turn = (time.monotonic() + n / N_PER_SECOND, next(Job.serial))
        self.channel, self.far_end = socket.socketpair()

    def __lt__(self, other):
        return self.turn < other.turn


class Places:
    """Who computes and who waits for a place. Any thread may call enter() and leave()."""

    def __init__(self, log, processes, queue_max):
        self.log, self.queue_max = log, queue_max
        self.free, self.kept = processes, processes // 4
        self.running, self.queue = set(), []  # the queue is sorted: whose turn comes first
        self.stopping = False
        self.lock = threading.Lock()
        self.start_fork_server()

    def start_fork_server(self):
        # SOCK_SEQPACKET: a message arrives as it was sent, and the death of either side is an end of file.
        self.fork_server, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            fd = far_end.fileno()
            command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--fork-server", str(fd)]
            self.process = subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.DEVNULL)
        if not self.fork_server.recv(MESSAGE_BYTES_MAX):
            raise ChildProcessError(errno.ECHILD, "it ended at once")

    def enter(self, n):
        """A job for n, running or in the queue; None if there is room in neither."""
        with self.lock:
            if self.stopping or not self.has_place(n) and len(self.queue) >= self.queue_max:
                return None
            job = Job(n)
            if self.has_place(n):
                self.start(job)
            else:
                self.log.write("debug", "n=%d waits for a place" % n)
                bisect.insort(self.queue, job)
            return job

    def leave(self, job):
        """The answer has come, or nobody wants it any more: then closing the channel ends the process."""
        with self.lock:
            job.channel.close()
            if job in self.running:
                self.running.remove(job)
                self.free += 1
            else:
                self.queue.remove(job)
                job.far_end.close()
            following = next((waiting for waiting in self.queue if self.has_place(waiting.n)), None)
            if following and not self.stopping:
                self.queue.remove(following)
                self.start(following)

    def has_place(self, n):
        return self.free > (0 if n <= SMALL_N_MAX else self.kept)

    def start(self, job):
        self.free -= 1
        self.running.add(job)
        try:
            try:
                self.send(job)
            except OSError:
                self.log.write("warn", "the fork server has died; starting another")
                self.process.wait()
                self.start_fork_server()
                self.send(job)
        except OSError as error:
            self.log.write("error", "no fork server: %s" % error.strerror)
        job.far_end.close()  # if it was not sent, the channel ends here, as if the process had died

    def send(self, job):
        socket.send_fds(self.fork_server, [b"%d" % job.n], [job.far_end.fileno()])

    def stop(self):
        """Every thread that waits for a job sees the end of its channel, and then `stopping`."""
        with self.lock:
            self.stopping = True
            for job in [*self.queue, *self.running]:
                job.channel.shutdown(socket.SHUT_RDWR)
            self.fork_server.close()


def receive(channel):
    """The next job: n, and the channel that waits for p(n). None when nobody is left who could send one."""
    message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES_MAX, 1)
    return (int(message), socket.socket(fileno=descriptors[0])) if message else None


def serve_forks(channel, log):
    """The fork server: forks a process for each job that it receives."""
    staying = set()

    def reap(_number, _frame):
        with contextlib.suppress(ChildProcessError):  # there are no more children
            while ended := os.waitpid(-1, os.WNOHANG)[0]:
                staying.discard(ended)

    # At once: the daemon counts what an ended child has used only when its parent has waited for it.
    signal.signal(signal.SIGCHLD, reap)
    gc.freeze()  # a garbage collection in a child would write to, and so copy, all that it shares
    channel.send(b"ready")
    while job := receive(channel):
        may_stay = job[0] <= SMALL_N_MAX and len(staying) < STAYING_MAX
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # a child must not end before it is in the set
        try:
            child = os.fork()
            if child == 0:
                run(channel, job, may_stay, log)
            if may_stay:
                staying.add(child)
        except OSError as error:
            log.write("error", "fork: %s" % error.strerror)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        job[1].close()
    with contextlib.suppress(ChildProcessError):  # the children end with their channels
        while True:
            os.wait()


def run(channel, job, may_stay, log):
    """The life of a computing process. Never returns. After a small N it may stay, and then receives jobs as
    the fork server does: to fork costs as much as to compute p(10^6)."""
    fork_server, nice_at_first = os.getppid(), os.nice(0)
    try:
        while job:
            n, answer = job
            small = n <= SMALL_N_MAX
            os.nice(nice_at_first + (NICE_SMALL if small else NICE_BIG) - os.nice(0))
            stays = small and may_stay and os.getppid() == fork_server
            if not stays:
                channel.close()
            with answer:
                compute(n, answer, log)
            job = receive(channel) if stays else None
    except Exception as error:  # MemoryError, above all
        log.write("error", "process %d failed: %r" % (os.getpid(), error))
    finally:
        os._exit(0)  # whatever happened: it must not go on as a fork server


def compute(n, answer, log):
    # The leash, see fcntl(2): when the other end of the channel is closed, the kernel sends SIGIO, which ends
    # this process at any point of its work. A thread that watches the channel would have to wait for its
    # turn, on a busy machine for seconds.
    fcntl.fcntl(answer, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(answer, fcntl.F_SETFL, os.O_ASYNC)
    if not select.select((answer,), (), (), 0)[0]:  # else it was closed before the kernel was asked
        log.write("debug", "process %d computes n=%d" % (os.getpid(), n))
        digits = b"%d" % nth_prime(n)
        fcntl.fcntl(answer, fcntl.F_SETFL, 0)
        with contextlib.suppress(BrokenPipeError):  # the client has gone just now
            answer.sendall(digits)


# ---------------------------------------------------------------------------------------------------
# 3. The HTTP server
# ---------------------------------------------------------------------------------------------------
#
# http.server has one thread for each connection. Added here is what a program needs that runs for months: a
# bound on the number of connections, on the size of a request head, and on every wait.

CONNECTIONS_MAX = 512  # each costs a thread. Beyond it, the one that has waited longest for a request gives way
DESCRIPTORS_PER_CONNECTION = 3  # its socket and both ends of its job's channel
DESCRIPTORS_SPARE = 16  # for the log, the fork server and the like
THREAD_STACK_BYTES = 256 * 1024
BACKLOG = 1024  # connections that the kernel keeps until they are accepted (at most net.core.somaxconn)
HEAD_BYTES_MAX = 8 * 1024
REQUESTS_MAX = 1000  # on one connection; then the client opens another
IDLE_SECONDS = 60  # how long a connection may wait for its first or next request
HEAD_SECONDS = 10  # from the first byte of a request head to its last
WRITE_SECONDS = 10
LINGER_SECONDS = 1
GIVE_WAY_SECONDS = 1
ACCEPT_PAUSE_SECONDS = 0.1
STOP_SECONDS = 1
RETRY_AFTER_SECONDS = 1
# From the client's end of file to giving up its job. `printf 'GET /N ...' | nc` ends its sending side after
# the request and still wants the answer, and TCP cannot tell that from a client that has gone; so what is
# nearly done is done, and a long computation is abandoned. A reset needs no such grace.
GONE_SECONDS = 0.5
# A client that vanished without a word (power, cable) is found by the kernel: probes after 15 s of silence,
# then every 5 s, and gone after 3 without an echo.
KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}

N_RULE = "N must be a whole number from 1 to %d, in decimal digits" % N_MAX
USAGE = "ask for GET /N, the Nth prime, N from 1 to %d" % N_MAX

# http.server forgives what two programs may understand differently (folded lines, a space before a colon).
# Here a head is as RFC 9112 has it, or is refused.
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
HEAD = re.compile(TOKEN + rb" [!-~\x80-\xff]+ HTTP/[1-9]\.[0-9](?:\r?\n" + TOKEN + rb":[^\x00\r\n]*)*")
HEAD_END = re.compile(rb"\r?\n\r?\n")


class Refusal(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status, text, fields=()):
        super().__init__(text)
        self.status, self.text, self.fields = status, text, fields


class Connection(http.server.BaseHTTPRequestHandler):
    """One client, in a thread of its own. http.server made `self.connection`, the socket."""

    protocol_version = default_request_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together, at flush()

    def handle(self):
        self.rfile.close()  # it has no deadline for a whole head; receive_head() has
        self.received = b""
        self.requests_left = REQUESTS_MAX
        with contextlib.suppress(OSError):  # the client has gone, or is too slow
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                self.connection.setsockopt(socket.IPPROTO_TCP, option, value)
            self.close_connection = False
            while not self.close_connection:
                self.handle_one_request()

    def handle_one_request(self):
        self.command, self.subject, self.request_version = "", "line=-", "HTTP/1.1"
        self.close_connection = True  # until the head is understood: what follows a bad one is not
        try:
            head = self.receive_head()
            self.raw_requestline, _, fields = head.partition(b"\n")
            self.subject = "line=" + escape(self.raw_requestline)
            if not HEAD.fullmatch(head):
                raise Refusal(400, "a request is: METHOD SP /PATH SP HTTP/1.1, then lines NAME: VALUE")
            self.rfile = io.BytesIO(fields + b"\r\n\r\n")
            self.parse_request()  # http.server's; a Refusal if it cannot, see send_error()
            self.answer(200, self.prime(self.wanted_n()))
        except Refusal as refusal:
            self.answer(refusal.status, refusal.text, refusal.fields)
            if self.close_connection:
                self.linger()

    def receive_head(self):
        """The next request head, without the empty line that ends it."""
        self.server.waiting[self.connection] = None
        self.began, begun = time.monotonic(), False
        deadline = self.began + IDLE_SECONDS
        try:
            while True:
                now = time.monotonic()
                self.received = self.received.lstrip(b"\r\n")  # RFC 9112 section 2.2
                if self.received and not begun:
                    self.began, begun = now, True
                    deadline = now + HEAD_SECONDS
                end = HEAD_END.search(self.received)
                if (end.end() if end else len(self.received)) > HEAD_BYTES_MAX:
                    raise Refusal(431, "a request head may have %d bytes" % HEAD_BYTES_MAX)
                if end:
                    head, self.received = self.received[: end.start()], self.received[end.end() :]
                    return head
                if now >= deadline:
                    raise socket.timeout
                self.connection.settimeout(deadline - now)
                data = self.connection.recv(HEAD_BYTES_MAX)
                if not data:
                    raise ConnectionAbortedError
                self.received += data
        except socket.timeout:
            if begun:
                self.log("closed: no whole request head in %d s" % HEAD_SECONDS)
            raise
        finally:
            self.server.waiting.pop(self.connection, None)
            self.connection.settimeout(WRITE_SECONDS)

    def wanted_n(self):
        """The N that is asked for, or a refusal that says what is wrong."""
        self.requests_left -= 1
        old = self.request_version == "HTTP/1.0"
        hostless = not old and len(self.headers.get_all("Host", ())) != 1
        # A body means nothing here and is not read; so where the next request would begin is not known.
        body = "Transfer-Encoding" in self.headers or self.headers.get_all("Content-Length", ["0"]) != ["0"]
        # RFC 9112 section 9.3; http.server looks only at the first header, and expects one word.
        words = {word.strip() for word in ",".join(self.headers.get_all("Connection", ())).lower().split(",")}
        self.close_connection = (
            hostless or body or "close" in words or old and "keep-alive" not in words or self.requests_left <= 0)
        if hostless:
            raise Refusal(400, "HTTP/1.1 wants one Host header")
        # RFC 9112 section 3.2.2: GET http://host/5 must be understood too.
        path = re.sub("^https?://[^/?#]*", "", self.requestline.split(" ")[1], flags=re.I).partition("?")[0]
        if not re.fullmatch("/[^/]+", path):
            raise Refusal(404, USAGE)
        if self.command != "GET":
            raise Refusal(405, USAGE, [("Allow", "GET")])
        if body:
            raise Refusal(413, "a request here has no body")
        digits = re.fullmatch("/0*([1-9][0-9]*)", path)
        # The digits are counted before they are converted: a number of 8,000 digits costs nothing.
        if not digits or len(digits[1]) > len(str(N_MAX)) or int(digits[1]) > N_MAX:
            raise Refusal(400, N_RULE)
        self.subject = "n=%s" % digits[1]
        return int(digits[1])

    def prime(self, n):
        """p(n) in digits: from the table, or from a process of its own."""
        if n <= TABLE_PRIMES:
            return str(nth_prime(n))
        places = self.server.places
        retry_after = [("Retry-After", str(RETRY_AFTER_SECONDS))]
        for _ in range(ATTEMPTS_MAX):
            job = places.enter(n)
            if not job and not places.stopping:
                raise Refusal(503, "every place is taken and the queue is full; try again or elsewhere", retry_after)
            try:
                answer = job and self.wait_for(job)
            finally:
                if job:
                    places.leave(job)
            if answer:
                return answer.decode()
            if places.stopping:
                raise Refusal(503, "this worker is stopping; try elsewhere", retry_after)
            self.log("the process died computing n=%d" % n, "warn")
        raise Refusal(500, "the computation failed; the log says more")

    def wait_for(self, job):
        """What the computing process says: p(n), or nothing if it died. Meanwhile the client is watched."""
        poll = select.poll()
        poll.register(job.channel, select.POLLIN)
        poll.register(self.connection, select.POLLRDHUP)
        grace = None
        while True:
            events = dict(poll.poll(grace))
            if job.channel.fileno() in events:
                return job.channel.recv(MESSAGE_BYTES_MAX)
            if grace or events[self.connection.fileno()] & (select.POLLHUP | select.POLLERR):
                self.log("abandoned n=%d: the client has gone" % job.n)
                raise ConnectionAbortedError
            grace = GONE_SECONDS * 1000
            poll.modify(self.connection, 0)  # a reset is still told

    def answer(self, status, text, fields=()):
        """Send one answer and log one line."""
        self.close_connection |= self.server.places.stopping
        body = (text + "\n").encode()
        kept = [("Connection", "keep-alive"), ("Keep-Alive", "timeout=%d, max=%d" % (IDLE_SECONDS, self.requests_left))]
        self.send_response(status)
        for name, value in [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *fields,
                            *([("Connection", "close")] if self.close_connection else kept)]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)
        self.wfile.flush()
        self.log("request %s status=%d" % (self.subject, status))

    def send_error(self, code, message=None, explain=None):
        """http.server calls this for a head that it cannot parse."""
        self.close_connection = True
        raise Refusal(code, message or self.responses[code][0])

    def linger(self):
        """Throw away what still comes, briefly: to close a socket with unread bytes resets it, and the reset
        may overtake the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SECONDS)
        while time.monotonic() < self.began + LINGER_SECONDS and self.connection.recv(HEAD_BYTES_MAX):
            pass

    def log(self, text, level="info"):
        ms = (time.monotonic() - self.began) * 1000
        self.server.log.write(level, "%s ms=%d client=%s" % (text, ms, shown(self.client_address)))

    def log_request(self, code="-", size="-"):
        pass  # answer() logs, when it knows how long it took

    def version_string(self):
        return "worker.py/" + VERSION


class Server(http.server.ThreadingHTTPServer):
    """The listening socket and the connections. serve_forever() accepts them, in a thread of its own."""

    request_queue_size = BACKLOG
    daemon_threads = True
    allow_reuse_port = False  # else two workers could share one port, and nobody would be told

    def __init__(self, family, address, log):
        self.address_family, self.log = family, log
        self.connections_max = connections_max(log)
        self.slots = threading.BoundedSemaphore(self.connections_max)
        self.waiting = {}  # the sockets on which no request is under way, the longest waiting first
        super().__init__(address, Connection)

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)  # http.server's own would ask the DNS for this machine's name

    def close_longest_waiting(self):
        """False if there is none."""
        for connection in list(self.waiting)[:1]:
            self.waiting.pop(connection, None)
            with contextlib.suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends
            return True
        return False

    def get_request(self):
        """Accepts one connection. An OSError tells serve_forever() that there is none."""
        if self.places.stopping:
            sys.exit()  # ends this thread
        try:
            request, peer = self.socket.accept()
        except OSError as error:
            self.log.write("warn", "accept: %s; pausing" % error.strerror)
            self.close_longest_waiting()
            time.sleep(ACCEPT_PAUSE_SECONDS)
            raise
        if not self.slots.acquire(blocking=False):
            if not self.close_longest_waiting() or not self.slots.acquire(timeout=GIVE_WAY_SECONDS):
                request.close()  # at a reset, a balancer asks another server at once
                raise OSError("every connection has a request under way")
        return request, peer

    def close_request(self, request):
        super().close_request(request)
        self.slots.release()

    def handle_error(self, request, client_address):
        self.log.write("error", "client=%s: %r" % (shown(client_address), sys.exc_info()[1]))

    def stop(self):
        """At once: a prime may be minutes away, and the balancer asks another server when it hears 503."""
        self.places.stop()
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        deadline = time.monotonic() + STOP_SECONDS
        for _ in range(self.connections_max):
            self.close_longest_waiting()
            self.slots.acquire(timeout=max(0, deadline - time.monotonic()))
        self.places.process.wait()


def connections_max(log):
    """As many connections as the limit of descriptors allows; that is raised as far as it may be."""
    wanted = DESCRIPTORS_SPARE + DESCRIPTORS_PER_CONNECTION * CONNECTIONS_MAX
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    count = max(1, (allowed - DESCRIPTORS_SPARE) // DESCRIPTORS_PER_CONNECTION)
    if count < CONNECTIONS_MAX:
        log.write("warn", "only %d descriptors (ulimit -n): at most %d connections at a time" % (allowed, count))
    return count


# ---------------------------------------------------------------------------------------------------
# 4. The program: command line, log, signals
# ---------------------------------------------------------------------------------------------------

LEVELS = ("off", "error", "warn", "info", "debug", "trace")
PROCESSES_PER_CORE = 4
PROCESSES_MAX = 256
QUEUE_DEFAULT = 128
QUEUE_MAX = 10_000
LOG_TEXT_MAX = 120


def escape(raw):
    """Bytes of a client as one printable, quoted word for the log: no control character, no new line."""
    text = raw[:LOG_TEXT_MAX].rstrip(b"\r").decode("latin-1").encode("unicode_escape").decode().replace('"', '\\"')
    return '"%s%s"' % (text, "..." if len(raw) > LOG_TEXT_MAX else "")


def shown(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]


class Log:
    """One line per event, on standard error and in the file."""

    def __init__(self, level, path):
        self.level = LEVELS.index(level)
        self.lock = threading.Lock()
        self.files = [2]
        if path:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            # O_APPEND: whoever else writes or truncates the file (logrotate), no line overwrites another.
            self.files.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))

    def write(self, level, text):
        if LEVELS.index(level) > self.level:
            return
        now = time.time()
        line = "%s.%03dZ %-5s %s\n" % (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)), now % 1 * 1000, level.upper(), text)
        with self.lock:
            for file in self.files:
                with contextlib.suppress(OSError):  # neither a full disk nor a closed terminal stops the primes
                    # Nor does a pipe that nobody reads, which is full after 64 KiB: the line is lost.
                    if select.select((), (file,), (), 0)[1]:
                        os.write(file, line.encode("utf-8", "replace"))


class Arguments(argparse.ArgumentParser):
    def error(self, message):
        """Exit 2 and one line, as all programs of this project do."""
        self.exit(2, "worker.py: %s; `worker.py --help` explains\n" % message)


def whole(low, high):
    def check(text):
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError("%r is not a whole number from %d to %d" % (text, low, high))
        return int(text)

    return check


def arguments():
    processes = min(PROCESSES_PER_CORE * len(os.sched_getaffinity(0)), PROCESSES_MAX)
    parser = Arguments(
        prog="worker.py", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Finds the Nth prime. GET /N answers with it, N from 1 to %d." % N_MAX,
        epilog="example:  python3 worker.py &  curl http://127.0.0.1:13337/1000000\n\n"
        "exit status:  0 stopped by SIGTERM, SIGINT or SIGHUP; 2 bad usage; 1 any other failure\n\n"
        "It answers whoever reaches it: let a firewall keep strangers out, or --bind an inner address.")
    option = parser.add_argument
    option("--bind", metavar="ADDRESS", default="0.0.0.0",
           help="address to listen on (default 0.0.0.0: all of IPv4; :: for IPv6 too)")
    option("--port", type=whole(0, 65535), default=13337,
           help="port to listen on (default 13337; 0: a free one, see the first line of output)")
    option("--processes", type=whole(1, PROCESSES_MAX), default=processes,
           help="primes computed at once; a quarter of these places is kept for N up to %d (default: %d per core, "
           "here %d)" % (SMALL_N_MAX, PROCESSES_PER_CORE, processes))
    option("--queue", type=whole(0, QUEUE_MAX), default=QUEUE_DEFAULT,
           help="requests that may wait for a place; beyond it 503 (default %d)" % QUEUE_DEFAULT)
    option("--log-level", metavar="LEVEL", type=str.lower, choices=LEVELS, default="info",
           help="%s (default info)" % ", ".join(LEVELS))
    option("--log-file", metavar="FILE", help="append the log to FILE too (it always goes to stderr)")
    option("--fork-server", type=int, help=argparse.SUPPRESS)  # how this program starts itself, see part 2
    option("--version", action="version", version="worker.py %s" % VERSION)
    return parser, parser.parse_args()


def main():
    # Started with a closed standard stream (`2>&-`), the next socket would take its number, and its place.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    parser, options = arguments()
    try:
        log = Log(options.log_level, options.log_file)
    except OSError as error:
        parser.exit(2, "worker.py: cannot open the log file %s: %s; choose another --log-file\n" % (
            options.log_file, error.strerror.lower()))
    if options.fork_server is not None:
        serve_forks(socket.socket(fileno=options.fork_server), log)
        return

    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.bind, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        parser.error("argument --bind: %r is no address of this machine (%s)" % (options.bind, error))
    threading.stack_size(THREAD_STACK_BYTES)
    try:
        server = Server(family, address, log)
    except OSError as error:
        parser.exit(1, "worker.py: cannot listen on %s: %s; choose another --port or --bind (`ss -ltnp` shows who "
                    "listens, `ip address` what can be bound)\n" % (shown(address), os.strerror(error.errno).lower()))
    try:
        server.places = Places(log, options.processes, options.queue)
    except OSError as error:
        parser.exit(1, "worker.py: cannot start its fork server: %s\n" % error.strerror.lower())
    threading.Thread(target=server.serve_forever, args=(None,), daemon=True).start()
    address = shown(server.server_address)
    log.write("info", "started: version=%s pid=%d address=%s processes=%d queue=%d" % (
        VERSION, os.getpid(), address, options.processes, options.queue))
    try:
        print("worker listening on %s" % address, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads it; Python's own flush at the end must not fail

    # nohup(1) has SIGHUP ignored, and means it.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    number = signal.sigwait(STOP_SIGNALS - ignored)
    log.write("info", "stopping: %s" % signal.Signals(number).name)
    server.stop()
    log.write("info", "stopped")


if __name__ == "__main__":
    main()
