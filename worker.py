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
     Odlyzko, 1985, on the foundation of Meissel, 1870). p(10^9) takes a fifth of a second of pure Python.
  2. The pool: one process per core computes, because the threads of one Python process share one core.
     A computation whose client has gone is killed; a pool whose parent has died ends at once.
  3. The HTTP server: one thread and epoll(7), so that ten thousand idle connections cost it nothing but
     memory. HTTP/1.1 and 1.0 as RFC 9110 and 9112 have it; every buffer, queue and wait has a bound.
  4. The program: command line, log, signals.
"""

import signal

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
if __name__ == "__main__":
    # From the first instant to the moment when main() is ready to stop cleanly, a Ctrl-C waits: the
    # kernel keeps a blocked signal pending, so none is lost and none becomes a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

import argparse
import errno
import fcntl
import heapq
import math
import os
import re
import resource
import select
import socket
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
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
# 2. The pool: processes that compute
# ---------------------------------------------------------------------------------------------------
#
# A child gets one line, N, on its socket, and sends one line back, p(N). It knows nothing of HTTP.
#
# To abandon a computation the child is killed and another forked, which takes about two milliseconds: no
# flag to poll in the inner loops, and nothing that a kill could leave half done.
#
# The other way round, a child must not outlive its parent, not even one that was killed with SIGKILL while
# the child is deep in a computation. So each child holds the reading end of a pipe, its *lifeline*, whose
# writing end only the parent has. When the parent ends, however it ends, the kernel closes that end and,
# because the child asked for it (O_ASYNC, F_SETOWN: fcntl(2)), sends SIGIO, whose default is to end the
# process. No thread and no polling, and no time in which the parent's death could be missed.

POOL_NICENESS = 5
"""The computing yields to the server that hears clients, and to nodes and daemons on the same machine."""

ATTEMPTS_MAX = 2
"""A job whose child died under it (the kernel's out-of-memory killer, an operator) is tried once more."""

FORK_RETRY_SECONDS = 1
REPLY_BYTES_MAX = 64


class Job:
    """One N that somebody waits for."""

    def __init__(self, n, done):
        self.n = n
        self.done = done  # called with the text of the answer, or None when the computation failed
        self.attempts = 0


class Child:
    """The parent's view of one process of the pool."""

    def __init__(self, pid, channel, lifeline):
        self.pid = pid
        self.channel = channel
        self.lifeline = lifeline
        self.job = None
        self.reply = b""


class Pool:
    """So many processes, and the queue of jobs before them. `loop` tells when a child has spoken."""

    def __init__(self, loop, log, processes, queue_max):
        self.loop = loop
        self.log = log
        self.queue_max = queue_max
        self.queue = deque()
        self.children = []
        self.processes = processes
        self.deadline = self.timer = math.inf  # of the next attempt when a fork has failed
        for _ in range(processes):
            self.fork()

    def submit(self, job):
        """Takes a job; False if the queue is full."""
        idle = next((child for child in self.children if child.job is None), None)
        if idle is not None:
            self.give(idle, job)
        elif len(self.queue) < self.queue_max:
            self.queue.append(job)
        else:
            return False
        return True

    def abandon(self, job):
        """Nobody waits for this job any more: out of the queue, or out of the world with its process."""
        child = next((child for child in self.children if child.job is job), None)
        if child is None:
            self.queue.remove(job)
        else:
            self.replace(child)

    def stop(self):
        self.queue.clear()
        for child in self.children:
            self.end(child)
        self.children = []

    def give(self, child, job):
        child.job = job
        child.reply = b""
        job.attempts += 1
        self.log.debug("pool: process %d computes n=%d" % (child.pid, job.n))
        try:
            child.channel.send(b"%d\n" % job.n)  # far less than a socket buffer: whole or not at all
        except OSError:
            pass  # it died while idle; its end of file is on its way to on_event, which replaces it

    def give_next(self, child):
        child.job = None
        if self.queue:
            self.give(child, self.queue.popleft())

    def replace(self, child):
        """Kill (it may be dead already), fork another, and let that one go on with the queue."""
        self.end(child)
        self.children.remove(child)
        self.on_deadline()

    def on_deadline(self):
        """Fork what is missing. A machine short of memory or processes may refuse for a while."""
        while len(self.children) < self.processes:
            try:
                self.give_next(self.fork())
            except OSError as error:
                self.log.error("pool: fork: %s; next attempt in %d s" % (error.strerror, FORK_RETRY_SECONDS))
                self.loop.set_deadline(self, FORK_RETRY_SECONDS)
                return

    def end(self, child):
        self.loop.remove(child.channel)
        os.kill(child.pid, signal.SIGKILL)  # until it is waited for, its pid cannot be another's
        os.waitpid(child.pid, 0)
        child.channel.close()
        os.close(child.lifeline)

    def fork(self):
        lifeline_read, lifeline_write = os.pipe()
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            os.close(lifeline_read)
            os.close(lifeline_write)
            raise
        # No signal may find the child still dressed as the parent, with the parent's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                compute_for_ever(theirs.fileno(), lifeline_read)
        except OSError:
            ours.close()
            os.close(lifeline_write)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            os.close(lifeline_read)
        ours.setblocking(False)
        child = Child(pid, ours, lifeline_write)
        self.children.append(child)
        self.loop.add(ours, select.EPOLLIN, lambda _events: self.on_event(child))
        self.log.debug("pool: process %d started" % pid)
        return child

    def on_event(self, child):
        try:
            data = child.channel.recv(REPLY_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            child.reply += data
            if child.reply.endswith(b"\n"):
                job, answer = child.job, child.reply.decode().rstrip("\n")
                self.give_next(child)
                job.done(answer)
            return
        job = child.job
        self.log.warn("pool: process %d died%s" % (child.pid, " computing n=%d" % job.n if job else ""))
        if job and job.attempts < ATTEMPTS_MAX:
            self.queue.appendleft(job)
            job = None
        self.replace(child)
        if job:
            job.done(None)


def compute_for_ever(channel, lifeline):
    """What a process of the pool does with its life. Never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
        for number in (signal.SIGTERM, signal.SIGIO):
            signal.signal(number, signal.SIG_DFL)
        close_others(channel, lifeline)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Had the parent died before the kernel was asked, no signal would come: look once.
        if not select.select([lifeline], [], [], 0)[0]:
            os.nice(POOL_NICENESS)
            with socket.socket(fileno=channel) as parent:
                while True:
                    line = parent.recv(REPLY_BYTES_MAX)
                    if not line:
                        break
                    parent.sendall(b"%d\n" % nth_prime(int(line)))
            status = 0
    except BaseException as error:  # also KeyboardInterrupt and MemoryError: a child must never go on as a parent
        os.write(2, ("worker.py: pool: %s: %s\n" % (type(error).__name__, error)).encode())
    finally:
        os._exit(status)


def close_others(*keep):
    """A forked process holds a copy of every descriptor. A client's connection is closed only when all its
    copies are, and a lifeline breaks only when nobody else holds its writing end."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the one that listdir itself had open


# ---------------------------------------------------------------------------------------------------
# 3. The HTTP server
# ---------------------------------------------------------------------------------------------------
#
# One thread, one epoll. A connection is in one of four states:
#
#   READING    a request head is wanted. Idle (nothing has come) or under way, each with its deadline.
#   COMPUTING  its job is in the pool. Nothing is read; the kernel tells when the client goes (EPOLLRDHUP).
#   WRITING    the answer did not fit into the socket's buffer, because the client does not read.
#   LINGERING  refused in the middle of sending: what still comes is thrown away, briefly, because closing
#              a socket with unread bytes resets it, and the reset may overtake the answer.

HEAD_BYTES_MAX = 8 * 1024
RECEIVE_BYTES = 8 * 1024
HEAD_SECONDS = 10
"""From the first byte of a head to its last. A client that sends a byte a second is cut off."""
IDLE_SECONDS = 60
"""How long a connection may wait for its first or next request."""
WRITE_SECONDS = 10
LINGER_SECONDS = 1
GONE_SECONDS = 0.5
"""From the client's end of file to giving up its job. `printf 'GET /N ...' | nc` ends its sending side
after the request and still wants the answer, and TCP cannot tell that from a client that has gone; so what
is nearly done is done, and a long computation is abandoned after this moment. A reset needs no such grace."""

CONNECTIONS_MAX = 4096
"""Beyond it, the connection that has waited longest without a request is closed for the new one."""
DESCRIPTORS_SPARE = 64
"""For the log and so on, besides two for each process of the pool: connections are capped so far below the limit of descriptors."""
BACKLOG = 1024
"""Connections that the kernel completes and keeps until they are accepted (at most net.core.somaxconn)."""
ACCEPTS_AT_ONCE = 64
"""Then those who are connected get their turn."""
ACCEPT_PAUSE_SECONDS = 0.1
"""After a failure of accept(2) that closing an idle connection did not mend."""
RETRY_AFTER_SECONDS = 1

# A client that vanished without a word (power, cable) is found by the kernel: probes after 15 s of silence,
# then every 5 s, and gone after 3 without an echo.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

N_RULE = "N must be a whole number from 1 to %d, in decimal digits" % N_MAX
USAGE = "ask for GET /N, the Nth prime, N from 1 to %d" % N_MAX

HEAD_END = re.compile(rb"\r?\n\r?\n")
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r]*)")
ORIGIN = re.compile(rb"(?i:https?)://[^/?#]*")
NUMBER = re.compile(rb"/0*([1-9][0-9]*)")


class Refusal(Exception):
    """A request that gets an error for an answer. `close`: what follows it cannot be understood."""

    def __init__(self, status, text, close=False, fields=""):
        super().__init__(text)
        self.status, self.text, self.close, self.fields = status, text, close, fields


class Request:
    """A request head, understood: RFC 9112 sections 2 to 6."""

    def __init__(self, head):
        lines = [line.rstrip(b"\r") for line in head.split(b"\n")]
        self.line = lines[0]
        match = REQUEST_LINE.fullmatch(lines[0])
        if not match:
            raise Refusal(400, "the request line is not: METHOD SP /PATH SP HTTP/1.1", close=True)
        self.method, target, major, minor = match.groups()
        if major != b"1":
            raise Refusal(505, "HTTP/1.1 and HTTP/1.0 are spoken here", close=True)
        fields = {}
        for line in lines[1:]:
            match = FIELD.fullmatch(line)
            if not match:
                raise Refusal(400, "a header line is not: NAME: VALUE", close=True)
            fields.setdefault(match[1].lower(), []).append(match[2].strip(b" \t"))
        if minor != b"0" and len(fields.get(b"host", ())) != 1:
            raise Refusal(400, "HTTP/1.1 wants one Host header", close=True)
        connection = b",".join(fields.get(b"connection", ())).lower().replace(b" ", b"").split(b",")
        self.old = minor == b"0"
        self.keep = b"keep-alive" in connection if self.old else b"close" not in connection
        # A body means nothing here and is not read; so where the next request would begin is not known.
        self.has_body = b"transfer-encoding" in fields or fields.get(b"content-length", [b"0"]) != [b"0"]
        if not target.startswith(b"/"):  # RFC 9112 section 3.2.2: GET http://host/5 must be understood too
            target = ORIGIN.sub(b"", target, count=1)
        self.path = target.partition(b"?")[0]

    def n(self):
        """The N that is asked for, or a refusal that says what is wrong."""
        if not re.fullmatch(rb"/[^/]+", self.path):
            raise Refusal(404, USAGE)
        if self.method != b"GET":
            raise Refusal(405, USAGE, fields="Allow: GET\r\n")
        if self.has_body:
            raise Refusal(413, "a request here has no body", close=True)
        match = NUMBER.fullmatch(self.path)
        # The digits are counted before they are converted: a number of 8,000 digits costs nothing.
        if not match or len(match[1]) > len(str(N_MAX)) or int(match[1]) > N_MAX:
            raise Refusal(400, N_RULE)
        return int(match[1])


class Connection:
    """One client. Its methods are called by the server's loop and by the pool when a job is done."""

    def __init__(self, server, sock, peer):
        self.server, self.sock = server, sock
        self.peer = shown(peer)
        self.state = "READING"
        self.buffer = bytearray()
        self.head_begun = False
        self.unsent = b""
        self.request = None
        self.job = None
        self.began = 0.0  # when the request's head was complete
        self.keep = True  # whether another request may follow the one being answered
        self.deadline = math.inf
        self.timer = math.inf  # the earliest deadline that the server's heap holds for this connection
        self.watched = select.EPOLLIN
        server.loop.add(sock, self.watched, self.on_event)
        self.wait_for_request()

    def watch(self, events):
        if events != self.watched:  # most answers leave it as it is; that saves a system call
            self.watched = events
            self.server.loop.modify(self.sock, events)

    def wait_for_request(self):
        self.state = "READING"
        self.head_begun = False
        self.server.waiting[self] = None
        self.server.loop.set_deadline(self, IDLE_SECONDS)

    def on_event(self, events):
        if self.state == "COMPUTING":
            if events & (select.EPOLLHUP | select.EPOLLERR):
                self.client_gone()
            else:
                self.watch(0)  # or it would be told again and again
                self.server.loop.set_deadline(self, GONE_SECONDS)
            return
        try:
            if self.state == "WRITING":
                self.flush()
                self.serve()  # what came behind the request whose answer had to wait
                return
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
        elif self.state == "READING":
            self.buffer += data
            self.serve()

    def serve(self):
        """Take every request that is complete, in order, until one has to be waited for."""
        while self.state == "READING":
            # RFC 9112 section 2.2: an empty line before a request is passed over.
            while self.buffer[:2] == b"\r\n" or self.buffer[:1] == b"\n":
                del self.buffer[: 2 if self.buffer[:1] == b"\r" else 1]
            end = HEAD_END.search(self.buffer)
            if (end.end() if end else len(self.buffer)) > HEAD_BYTES_MAX:
                self.began = time.monotonic()
                self.refuse(Refusal(431, "a request head may have %d bytes" % HEAD_BYTES_MAX, close=True))
                return
            if not end:
                if self.buffer and not self.head_begun:
                    self.head_begun = True
                    self.server.loop.set_deadline(self, HEAD_SECONDS)
                return
            head = bytes(self.buffer[: end.start()])
            del self.buffer[: end.end()]
            self.handle(head)

    def handle(self, head):
        self.began = time.monotonic()
        self.request = None
        try:
            self.request = Request(head)
            self.keep = self.request.keep and not self.request.has_body
            n = self.request.n()
        except Refusal as refusal:
            self.refuse(refusal, head)
            return
        if n <= TABLE_PRIMES:
            self.answer(200, "%d" % nth_prime(n), "n=%d" % n)
            return
        self.server.waiting.pop(self, None)
        self.job = Job(n, self.on_job_done)
        if not self.server.pool.submit(self.job):
            self.job = None
            self.answer_busy(n, "all processes are busy and the queue is full; try again or elsewhere")
            return
        self.state = "COMPUTING"
        self.deadline = math.inf
        self.watch(select.EPOLLRDHUP)

    def on_job_done(self, text):
        n, self.job = self.job.n, None
        if text is None:
            self.answer(500, "the computation failed; the log says more", "n=%d" % n)
        else:
            self.answer(200, text, "n=%d" % n)
        self.serve()  # the next request may have come in the same packet as this one

    def refuse(self, refusal, head=b""):
        if refusal.close:
            self.keep = False
        subject = "line=%s" % escape(head.partition(b"\n")[0].rstrip(b"\r")) if head else "line=-"
        self.answer(refusal.status, refusal.text, subject, refusal.fields)

    def answer_busy(self, n, text):
        self.answer(503, text, "n=%d" % n, "Retry-After: %d\r\n" % RETRY_AFTER_SECONDS)

    def answer(self, status, text, subject, fields=""):
        """Send one answer, in one write, and log one line."""
        self.server.waiting.pop(self, None)
        body = text + "\n"
        if not self.keep:
            fields += "Connection: close\r\n"
        elif self.request and self.request.old:
            fields += "Connection: keep-alive\r\n"
        head = "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n" % (
            status, REASONS[status], len(body), fields)
        # The answer to HEAD has no body, whatever its Content-Length says.
        if self.request and self.request.method == b"HEAD":
            body = ""
        self.server.log.info("request %s status=%d ms=%d client=%s" % (
            subject, status, (time.monotonic() - self.began) * 1000, self.peer))
        self.unsent = (head + body).encode("latin-1")
        self.state = "WRITING"
        try:
            self.flush()
        except OSError:
            self.close()

    def flush(self):
        """Send what is left of the answer; then the next state."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent):]
        except BlockingIOError:
            pass
        if self.unsent:
            self.watch(select.EPOLLOUT)
            self.server.loop.set_deadline(self, WRITE_SECONDS)
            return
        self.watch(select.EPOLLIN)
        if self.keep:
            self.wait_for_request()
            return
        self.state = "LINGERING"
        self.buffer.clear()
        self.sock.shutdown(socket.SHUT_WR)
        self.server.loop.set_deadline(self, LINGER_SECONDS)

    def client_gone(self):
        job, self.job = self.job, None
        self.server.log.info("abandoned n=%d ms=%d client=%s: the client has gone" % (
            job.n, (time.monotonic() - self.began) * 1000, self.peer))
        self.close()
        self.server.pool.abandon(job)

    def on_deadline(self):
        if self.state == "COMPUTING":
            self.client_gone()
            return
        if self.state == "READING" and self.head_begun:
            self.server.log.info("closed client=%s: no whole request head in %d s" % (self.peer, HEAD_SECONDS))
        self.close()

    def close(self):
        self.state = "CLOSED"
        self.deadline = math.inf
        self.server.waiting.pop(self, None)
        self.server.connections.discard(self)
        self.server.loop.remove(self.sock)
        self.sock.close()


class Loop:
    """epoll(7) and the deadlines: who is to be called for each descriptor, and when time is up.

    Whoever has deadlines has the fields `deadline` and `timer`, both infinite at first, and `on_deadline`."""

    def __init__(self):
        self.epoll = select.epoll()
        self.handlers = {}
        self.heap = []  # (deadline, tie-break, whose)
        self.heap_count = 0

    def add(self, source, events, handler):
        self.handlers[source.fileno()] = handler
        self.epoll.register(source, events)

    def modify(self, source, events):
        self.epoll.modify(source, events)

    def remove(self, source):
        if self.handlers.pop(source.fileno(), None):
            self.epoll.unregister(source)

    def set_deadline(self, whose, seconds):
        """The heap holds one entry for each `whose`, rarely two: a deadline that moves away is looked at
        when the old one comes, so that a busy connection costs no heap operation per request."""
        whose.deadline = time.monotonic() + seconds
        if whose.deadline < whose.timer:
            self.push(whose)

    def push(self, whose):
        whose.timer = whose.deadline
        self.heap_count += 1
        heapq.heappush(self.heap, (whose.deadline, self.heap_count, whose))

    def step(self):
        """Blocks until something happens or a deadline passes, and calls who is meant."""
        seconds = max(0, self.heap[0][0] - time.monotonic()) if self.heap else None
        for descriptor, events in self.epoll.poll(seconds):
            # One event's handler may have closed the descriptor of a later event.
            handler = self.handlers.get(descriptor)
            if handler:
                handler(events)
        now = time.monotonic()
        while self.heap and self.heap[0][0] <= now:
            when, _, whose = heapq.heappop(self.heap)
            if when == whose.timer:
                whose.timer = math.inf
            if whose.deadline <= now:
                whose.deadline = math.inf
                whose.on_deadline()
            elif whose.deadline < whose.timer:
                self.push(whose)


class Server:
    """The listening socket, the connections and their deadlines."""

    def __init__(self, log, listener, processes, queue_max):
        self.log, self.listener = log, listener
        self.loop = Loop()
        self.connections = set()
        self.waiting = OrderedDict()  # the connections in READING, who has waited longest first
        self.stop_signal = None
        self.deadline = self.timer = math.inf  # of the pause after a failed accept
        self.connections_max = connections_max(processes)
        self.pool = Pool(self.loop, log, processes, queue_max)
        self.loop.add(listener, select.EPOLLIN, self.on_accept)

    def run(self, wakeup):
        """Serves until a signal number arrives on `wakeup`, the socket that Python writes them to."""
        self.loop.add(wakeup, select.EPOLLIN, lambda _events: self.on_signal(wakeup.recv(64)))
        while self.stop_signal is None:
            self.loop.step()
        self.stop()

    def on_signal(self, numbers):
        self.stop_signal = signal.Signals(numbers[0]).name

    def stop(self):
        """At once: a prime may be minutes away, and the balancer asks another server when it hears 503."""
        self.log.info("stopping: %s, %d connections" % (self.stop_signal, len(self.connections)))
        self.loop.remove(self.listener)
        self.listener.close()
        for connection in list(self.connections):
            if connection.state == "COMPUTING":
                n, connection.job = connection.job.n, None
                connection.keep = False
                connection.answer_busy(n, "this worker is stopping; try elsewhere")
        self.pool.stop()
        for connection in list(self.connections):
            connection.close()
        self.log.info("stopped")

    def on_accept(self, _events):
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, peer = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    if self.close_longest_waiting():
                        continue
                    self.log.warn("accept: %s; pausing" % error.strerror)
                    self.loop.modify(self.listener, 0)
                    self.loop.set_deadline(self, ACCEPT_PAUSE_SECONDS)
                    return
                continue  # the client went away before it was accepted
            if len(self.connections) >= self.connections_max and not self.close_longest_waiting():
                sock.close()
                continue
            sock.setblocking(False)
            try:
                for option in KEEPALIVE:
                    sock.setsockopt(*option)
            except OSError:
                sock.close()  # reset already
                continue
            self.connections.add(Connection(self, sock, peer))

    def on_deadline(self):
        self.loop.modify(self.listener, select.EPOLLIN)

    def close_longest_waiting(self):
        if not self.waiting:
            return False
        next(iter(self.waiting)).close()
        return True


def connections_max(processes):
    """As many descriptors as this process may have, less what it needs itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = DESCRIPTORS_SPARE + 2 * processes
    wanted = CONNECTIONS_MAX + spare
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS_MAX, soft - spare))


# ---------------------------------------------------------------------------------------------------
# 4. The program: command line, log, signals
# ---------------------------------------------------------------------------------------------------

LEVELS = ("off", "error", "warn", "info", "debug", "trace")
QUEUE_DEFAULT = 128
PROCESSES_MAX = 256
QUEUE_MAX = 100_000
LOG_TEXT_MAX = 120


def escape(raw):
    """Bytes from a client as one printable, quoted word for the log: no control character, no new line."""
    text = raw[:LOG_TEXT_MAX].decode("latin-1").encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return '"%s%s"' % (text, "..." if len(raw) > LOG_TEXT_MAX else "")


class Log:
    """One line per event, each in one write(2), on standard error and in the file."""

    def __init__(self, level, path):
        self.level = LEVELS.index(level)
        self.file = None
        # O_APPEND: whoever else writes or truncates the file (logrotate), no line overwrites another.
        if path:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.poll = select.poll()
        self.poll.register(2, select.POLLOUT)

    def write(self, level, text):
        if LEVELS.index(level) > self.level:
            return
        now = time.time()
        line = "%s.%03dZ %-5s %s\n" % (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)), now % 1 * 1000, level.upper(), text)
        raw = line.encode("utf-8", "replace")
        try:
            # A pipe that nobody reads is full after 64 KiB; waiting for its reader would stop the server.
            if self.poll.poll(0):
                os.write(2, raw)
        except OSError:
            pass  # nobody listens there any more; the file may
        if self.file is not None:
            try:
                os.write(self.file, raw)
            except OSError:
                pass  # a full disk must not stop the primes

    def error(self, text):
        self.write("error", text)

    def warn(self, text):
        self.write("warn", text)

    def info(self, text):
        self.write("info", text)

    def debug(self, text):
        self.write("debug", text)


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


def level_name(text):
    if text.lower() not in LEVELS:
        raise argparse.ArgumentTypeError("%r is not one of %s" % (text, ", ".join(LEVELS)))
    return text.lower()


def arguments():
    cores = len(os.sched_getaffinity(0))
    parser = Arguments(
        prog="worker.py", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Finds the Nth prime. GET /N answers with it, N from 1 to %d." % N_MAX,
        epilog="example:  python3 worker.py &  curl http://127.0.0.1:13337/1000000\n\n"
        "exit status:  0 stopped by SIGTERM, SIGINT or SIGHUP; 2 bad usage; 1 any other failure\n\n"
        "It answers whoever reaches it: let a firewall keep strangers out, or --bind an inner address.")
    parser.add_argument("--bind", metavar="ADDRESS", default="0.0.0.0",
                        help="address to listen on (default 0.0.0.0: all of IPv4; :: for IPv6 too)")
    parser.add_argument("--port", type=whole(0, 65535), default=13337,
                        help="port to listen on (default 13337; 0: a free one, see the first line of output)")
    parser.add_argument("--processes", type=whole(1, PROCESSES_MAX), default=min(cores, PROCESSES_MAX),
                        help="primes computed at once (default: one per core, here %d)" % cores)
    parser.add_argument("--queue", type=whole(0, QUEUE_MAX), default=QUEUE_DEFAULT,
                        help="requests that may wait for a process; beyond it 503 (default %d)" % QUEUE_DEFAULT)
    parser.add_argument("--log-level", metavar="LEVEL", type=level_name, default="info",
                        help="%s (default info)" % ", ".join(LEVELS))
    parser.add_argument("--log-file", metavar="FILE", help="append the log to FILE too (it always goes to stderr)")
    parser.add_argument("--version", action="version", version="worker.py %s" % VERSION)
    return parser, parser.parse_args()


def listen(parser, bind, port):
    """The listening socket, or the end of the program with one line that says why not."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        parser.error("argument --bind: %r is no address of this machine (%s)" % (bind, error))
    listener = socket.socket(family, kind, protocol)
    # Else, after a crash, connections in TIME_WAIT would keep the port for a minute. It does not let two
    # programs listen on one port: that stays an error on Linux.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        mend = {
            errno.EADDRINUSE: "stop what listens there (`ss -ltnp` shows it) or choose another --port",
            errno.EADDRNOTAVAIL: "choose a --bind address that this machine has (`ip address` shows them)",
            errno.EACCES: "choose a --port from 1024 on",
        }.get(error.errno, "choose another --bind or --port")
        parser.exit(1, "worker.py: cannot listen on %s: %s; %s\n" % (
            shown((bind, port)), error.strerror.lower(), mend))
    listener.setblocking(False)
    return listener


def shown(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]


def main():
    # Started with a closed standard stream (`2>&-`), the next socket would take its number, and its place.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    parser, options = arguments()
    listener = listen(parser, options.bind, options.port)
    try:
        log = Log(options.log_level, options.log_file)
    except OSError as error:
        parser.exit(2, "worker.py: cannot open the log file %s: %s; choose another --log-file\n" % (
            options.log_file, error.strerror.lower()))

    # Python writes the number of each signal that arrives into this pair; to the loop it is one more event.
    wakeup, wakeup_write = socket.socketpair()
    for end in (wakeup, wakeup_write):
        end.setblocking(False)
    signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        # nohup(1) has SIGHUP ignored, and a shell ignores SIGINT for what it starts with & in a script; but
        # a SIGINT sent on purpose to a server is meant, and the contract says that it stops on it.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)

    try:
        server = Server(log, listener, options.processes, options.queue)
    except OSError as error:
        parser.exit(1, "worker.py: cannot start its processes: %s; try fewer --processes\n" % error.strerror.lower())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    address = shown(listener.getsockname())
    log.info("started: version=%s pid=%d address=%s processes=%d queue=%d" % (
        VERSION, os.getpid(), address, options.processes, options.queue))
    try:
        print("worker listening on %s" % address, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads it; then Python's own flush at the end must not fail
    server.run(wakeup)


if __name__ == "__main__":
    main()
