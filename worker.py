#!/usr/bin/env python3
"""worker.py finds the Nth prime: GET /N answers with p(N) and a newline.

One of these runs on every server behind the load balancer. It needs Python 3.9 or newer on Linux and nothing but
the standard library. The nodes call it; so can anybody with curl:

    $ python3 worker.py &
    worker listening on 0.0.0.0:13337
    $ curl localhost:13337/1000000
    15485863

Four parts, each to be read alone: 1. the mathematics, 2. the computations and their processes, 3. the HTTP server,
4. the program (log, command line, signals).
"""

import signal

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
if __name__ == "__main__":
    # Blocked from the first instant: the kernel keeps them until main() waits for them. Threads and children
    # inherit the block: a Ctrl-C in a terminal reaches all of them, and main() alone decides.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

import argparse
import bisect
import contextlib
import fcntl
import gc
import http
import itertools
import math
import os
import re
import resource
import select
import socket
import threading
import time
from array import array
from bisect import bisect_right
from itertools import accumulate, compress, repeat

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

# The greatest N that is answered: p(10^12) = 29,996,224,275,833 costs about half a minute of one core and 30 MB.
# Beyond it an answer would outlast the balancer's own deadline (300 s) on a busy machine.
N_MAX = 10**12
TABLE_PRIMES = 100_000  # so many primes are kept in a table (400 KB); up to here an answer is a look-up
TABLE_LIMIT = 1_299_709  # p(100,000), the last prime of the table
COUNT_FROM = 30_000  # prime_count() is correct from 13^4 = 28,561 on, see there


def odd_sieve(limit):
    """Flags of the odd numbers up to `limit`: 1 for a prime. Eratosthenes. Index 0, the number 1, is left
    set: it stands in for the only even prime, so that counts of flags are counts of primes (from 2 on)."""
    flags = bytearray(b"\1") * ((limit + 1) // 2)
    for i in range(1, (math.isqrt(limit) + 1) // 2):
        if flags[i]:
            p = 2 * i + 1
            strike(flags, p * p // 2, p)
    return flags


def primes_of(flags):
    """The primes that odd_sieve() has left."""
    primes = array("i", [2])
    primes.extend(compress(range(3, 2 * len(flags), 2), flags[1:]))
    return primes


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
WHEEL = bytearray(b"\1") * WHEEL_ODDS
for wheel_prime in WHEEL_PRIMES[1:]:
    strike(WHEEL, wheel_prime // 2, wheel_prime)
WHEEL_SUMS = array("i", accumulate(WHEEL, initial=0))

# Flags sieved at a time: 960,960 bytes, a size that stays in the processor's cache. A multiple of the wheel's
# period, so that every segment starts as a copy of the same pattern.
SEGMENT_PATTERN = WHEEL * 64
SEGMENT_ODDS = len(SEGMENT_PATTERN)

# Where the split point y = sqrt(x / LEAF_BALANCE) lies. A greater y means more leaves to evaluate, a smaller y a
# longer stretch to sieve. Measured best between 60 and 240 for N from 10^8 to 10^11; any value gives the same answer.
LEAF_BALANCE = 120


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
    primes = primes_of(flags)
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
                # Above y_root, m is a prime: it has no room for two primes above p.
                numbers = primes if p > y_root else composites
                first, last = bisect_right(numbers, m_above), bisect_right(numbers, m_last)
                facts = repeat(-y) if p > y_root else reversed(signs[first:last])
                for m, sign in zip(reversed(numbers[first:last]), facts):
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
    total, power = 1.0, 1.0
    for k, zeta in enumerate(ZETA, 1):
        power *= math.log(x) / k
        total += power / (k * zeta)
    return total


# Riemann's zeta(2), zeta(3), ...: nine terms, and Euler and Maclaurin's word for the rest. For x up to 10^14 the terms
# of Gram's series are below 10^-17 of the sum before these are used up.
ZETA = [sum(k**-s for k in range(1, 10)) + 10 ** (1 - s) / (s - 1) + 10**-s / 2 + s * 10 ** (-s - 1) / 12
        for s in range(2, 200)]


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
    for p in primes_of(odd_sieve(math.isqrt(end)))[1:]:
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


TABLE = primes_of(odd_sieve(TABLE_LIMIT))
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
# Why: the threads of one Python program take turns on one core, so a small N would wait for big ones. Hence each
# N is computed in a process of its own, and the kernel shares the cores among them.
#
# fork(2) makes a process in a millisecond, but it copies only the thread that calls it: a lock that another
# thread holds at that moment stays locked in the copy for ever. The HTTP server is full of threads. Hence the
# *fork server*: a process without threads, made before the first thread starts, that does nothing but fork.
#
#     HTTP server --- the far end of a channel ---> fork server --- fork ---> computing process
#          ^ |                                                                      ^ |
#          | +--------------------- N, through the channel -------------------------+ |
#          +----------------------- p(N), through the channel ------------------------+
#
# The channel is a pair of connected sockets. It is also a leash: when the HTTP server closes its end, or dies in
# whatever way, the kernel tells the computing process, and that one ends.

SMALL_N_MAX = 10**8  # up to here N is small: below a tenth of a second. Some places are kept for small N
NICE_SMALL, NICE_BIG = 5, 10  # nice(2): the HTTP server goes before a small N, and a small N before a big one
N_PER_SECOND = 10**10  # in the queue a small N goes first, but a second of waiting weighs as much as this
IDLE_PROCESSES_MAX = 4  # so many processes stay after a small N, for the next one: to fork costs as much as p(10^6)
MESSAGE_BYTES_MAX = 64


def fork(function, *arguments):
    """Run function(*arguments) in a copy of this process; return its pid. The copy ends with the function."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        except Exception as error:  # MemoryError, above all
            log("error", "process %d failed: %r" % (os.getpid(), error))
        finally:
            os._exit(status)  # whatever happened: it must not go on with what its parent was doing
    return child


def keep_fork_server(orders, far_end):
    """If somebody kills the fork server (the kernel, when memory is short), fork another."""
    far_end.close()
    while os.waitpid(fork(serve_forks, orders), 0)[1] != 0:
        log("warn", "the fork server has died; starting another")


def serve_forks(orders):
    """The fork server: start a computing process for each channel that arrives."""

    def reap(_number, _frame):
        with contextlib.suppress(ChildProcessError):  # there is no other child
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # At once: the daemon counts what an ended child has used only when its parent has waited for it.
    signal.signal(signal.SIGCHLD, reap)
    while descriptors := socket.recv_fds(orders, MESSAGE_BYTES_MAX, 1)[1]:
        with socket.socket(fileno=descriptors[0]) as channel:
            try:
                fork(serve_numbers, channel, orders)
            except OSError as error:
                log("error", "fork: %s" % error.strerror)
    with contextlib.suppress(ChildProcessError):  # the HTTP server is ending, and with it every channel
        while True:
            os.wait()


def serve_numbers(channel, orders):
    """A computing process: answer each N that arrives with p(N)."""
    orders.close()
    os.nice(NICE_SMALL)
    while message := channel.recv(MESSAGE_BYTES_MAX):
        if int(message) > SMALL_N_MAX:
            os.nice(NICE_BIG - NICE_SMALL)  # there is no way back: after a big N the HTTP server closes the channel
        # The leash, see fcntl(2): when the other end is closed, the kernel sends SIGIO, which ends this process
        # at any point of its work. A thread that watches would have to wait for its turn.
        fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(channel, fcntl.F_SETFL, os.O_ASYNC)
        if select.select((channel,), (), (), 0)[0]:
            break  # it was closed before the kernel was asked
        log("debug", "process %d computes n=%d" % (os.getpid(), int(message)))
        digits = b"%d" % nth_prime(int(message))
        fcntl.fcntl(channel, fcntl.F_SETFL, 0)
        with contextlib.suppress(BrokenPipeError):  # the client has gone just now
            channel.send(digits)


class Places:
    """Decides who computes and who waits. Every thread of the HTTP server may call compute()."""

    def __init__(self, processes, queue_max):
        """No thread may run yet: this forks."""
        # SOCK_SEQPACKET: a message arrives as it was sent, and the death of one side is an end of file for the other.
        self.orders, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            self.keeper = fork(keep_fork_server, far_end, self.orders)
        self.queue_max = queue_max
        self.free, self.kept = processes, processes // 4  # of the free places, so many are for small N only
        self.queue = []  # (when its turn comes, serial number, N, bell), sorted
        self.serial = itertools.count()
        self.idle = []  # channels of processes that wait for a small N
        self.lock = threading.RLock()  # of the four fields above
        self.stopping, self.stop_end = socket.socketpair()  # stop() closes the second; whoever waits watches the first

    def compute(self, n, client):
        """p(n) in digits. Raises Reply, or ConnectionAbortedError if the client behind this socket has gone."""
        self.take_place(n, client)
        try:
            for fresh in (False, True):  # a computation whose process was killed is tried once more
                if digits := self.ask_process(n, client, fresh):
                    return digits.decode()
                log("warn", "the process died computing n=%d" % n)
            raise Reply(500, "the computation failed; the log says more")
        finally:
            self.give_back()

    def take_place(self, n, client):
        """Take a place for n: at once, or from the queue."""
        with self.lock:
            if self.has_place(n):
                self.free -= 1
                return
            if len(self.queue) >= self.queue_max:
                raise Reply(503, "every place is taken and the queue is full; try again or elsewhere", RETRY_AFTER)
            turn, bell = socket.socketpair()
            waiting = (time.monotonic() + n / N_PER_SECOND, next(self.serial), n, bell)
            bisect.insort(self.queue, waiting)
        log("debug", "n=%d waits for a place" % n)
        with turn, bell:
            try:
                self.wait(turn, client)
            except BaseException:
                with self.lock:
                    if waiting in self.queue:
                        self.queue.remove(waiting)
                    else:  # its turn came at the same moment
                        self.give_back()
                raise

    def give_back(self):
        """Give a place back; the first in the queue that may have it gets it."""
        with self.lock:
            self.free += 1
            following = next((waiting for waiting in self.queue if self.has_place(waiting[2])), None)
            if following:
                self.free -= 1
                self.queue.remove(following)
                following[3].shutdown(socket.SHUT_RDWR)  # at the end of file on `turn`, its thread goes on

    def has_place(self, n):
        return self.free > (0 if n <= SMALL_N_MAX else self.kept)

    def ask_process(self, n, client, fresh):
        """p(n) in digits, from an idle or a fresh process; nothing if that process has died."""
        with self.lock:
            channel = self.idle.pop() if self.idle and not fresh else None
        channel, far_end = (channel, None) if channel else socket.socketpair()
        stays = False
        try:
            if far_end:
                with far_end:  # if nobody takes it, the channel ends here, as if the process had died
                    socket.send_fds(self.orders, [b"a process, please"], [far_end.fileno()])
            channel.send(b"%d" % n)
            self.wait(channel, client)
            digits = channel.recv(MESSAGE_BYTES_MAX)
            stays = digits and n <= SMALL_N_MAX
            return digits
        except (BrokenPipeError, ConnectionResetError) as error:
            log("debug", "no process: %s" % error.strerror)
        finally:
            with self.lock:
                if stays and len(self.idle) < IDLE_PROCESSES_MAX:
                    self.idle.append(channel)
                else:
                    channel.close()  # whatever the process is doing, it ends

    def wait(self, wanted, client):
        """Return when the socket `wanted` can be read. Meanwhile watch the client, and whether to stop."""
        poll = select.poll()
        poll.register(wanted, select.POLLIN)
        poll.register(self.stopping, select.POLLIN)
        poll.register(client, select.POLLRDHUP)
        grace = None
        while True:
            events = dict(poll.poll(grace))
            if wanted.fileno() in events:
                return
            if self.stopping.fileno() in events:
                raise Reply(503, "this worker is stopping; try elsewhere", RETRY_AFTER)
            if grace or events[client.fileno()] & (select.POLLHUP | select.POLLERR):
                raise ConnectionAbortedError
            grace = GONE_SECONDS * 1000
            poll.modify(client, 0)  # a reset is still told

    def end(self):
        """After stop_end is closed and every thread has left: end all processes, and wait until they are gone."""
        for channel in [*self.idle, self.orders]:
            channel.close()
        os.waitpid(self.keeper, 0)


# ---------------------------------------------------------------------------------------------------
# 3. The HTTP server
# ---------------------------------------------------------------------------------------------------
#
# Why: ThreadingHTTPServer of the standard library is not made for months among strangers. It limits neither the number
# of connections nor the time for a request, it accepts requests that two programs may understand differently, and
# its imports cost 6 MB in each idle worker. This part keeps its idea: one thread for each connection.

CONNECTIONS_MAX = 512  # each has a thread. Beyond it, the one that has waited longest for a request gives way
DESCRIPTORS_PER_CONNECTION, DESCRIPTORS_SPARE = 3, 16  # its socket and a channel; the log, the fork server, ...
THREAD_STACK_BYTES = 256 * 1024
BACKLOG = 1024  # connections that the kernel keeps until they are accepted (at most net.core.somaxconn)
HEAD_BYTES_MAX = 8 * 1024
REQUESTS_MAX = 1000  # on one connection; then the client opens another
IDLE_SECONDS = 60  # how long a connection may wait for its first or next request
HEAD_SECONDS, WRITE_SECONDS = 10, 10  # from the first byte of a request head, or of an answer, to its last
LINGER_SECONDS, GIVE_WAY_SECONDS, ACCEPT_PAUSE_SECONDS, STOP_SECONDS = 1, 1, 0.1, 1
RETRY_AFTER = "Retry-After: 1\r\n"  # seconds
# From the client's end of file to giving up its N. `printf 'GET /N ...' | nc` ends its sending side after the
# request and still wants the answer, and TCP cannot tell that from a client that has gone. So what is nearly done
# is done, and a long computation is abandoned. A reset needs no such grace.
GONE_SECONDS = 0.5
SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A client that vanished without a word (power, cable) is found by the kernel: probes after 15 s of silence,
    # then every 5 s, and gone after 3 without an echo.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3))

N_RULE = "N must be a whole number from 1 to %d, in decimal digits" % N_MAX
USAGE = "ask for GET /N, the Nth prime, N from 1 to %d" % N_MAX
ALLOW = "Allow: GET, HEAD, OPTIONS\r\n"
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
HEAD = re.compile(r"(%s) ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])((?:\r?\n%s:[^\x00\r\n]*)*)" % (TOKEN, TOKEN))
HEAD_END = re.compile(rb"\r?\n\r?\n")


class Reply(Exception):
    """The answer to a request that gets no prime."""

    def __init__(self, status, text, fields=""):
        super().__init__(text)
        self.status, self.text, self.fields = status, text, fields


class Request:
    """What a client asks for, as RFC 9112 has it."""

    def __init__(self, head=""):
        self.head, self.method = head, ""
        self.subject = "line=" + (escape(head.partition("\n")[0]) if head else "-")  # for the log
        self.closes = True  # until the head is understood: where the next one would begin is not known

    def n(self):
        """The N that is asked for. Raises Reply where there is none."""
        match = HEAD.fullmatch(self.head)
        if not match:
            raise Reply(400, "a request is: METHOD SP /PATH SP HTTP/1.1, then lines NAME: VALUE")
        self.method, target, major, minor, lines = match.groups()
        if major != "1":
            raise Reply(505, "HTTP/1.1 and HTTP/1.0 are spoken here")
        fields = {}
        for line in lines.split("\n")[1:]:
            name, _, value = line.partition(":")
            fields.setdefault(name.lower(), []).append(value.strip())
        if minor != "0" and len(fields.get("host", ())) != 1:
            raise Reply(400, "HTTP/1.1 wants one Host header")
        coding = ",".join(fields.get("transfer-encoding", ())).lower()
        has_body = coding or fields.get("content-length", ["0"]) != ["0"]  # it means nothing here and is not read
        wishes = re.split("[ \t]*,[ \t]*", ",".join(fields.get("connection", ())).lower())
        self.closes = bool(has_body) or "close" in wishes or minor == "0" and "keep-alive" not in wishes
        if coding not in ("", "chunked"):
            raise Reply(501, "of all transfer codings, only chunked is known here")
        # RFC 9112 section 3.2.2: GET http://host/5 must be understood too.
        path = re.sub("^https?://[^/?#]*", "", target, flags=re.I).partition("?")[0]
        if not re.fullmatch("/[^/]+", path) and (self.method, path) != ("OPTIONS", "*"):
            raise Reply(404, USAGE)
        if self.method not in ("GET", "HEAD"):
            raise Reply(200 if self.method == "OPTIONS" else 405, USAGE, ALLOW)
        if has_body:
            raise Reply(413, "a request here has no body")
        digits = re.fullmatch("/0*([1-9][0-9]*)", path)
        # The digits are counted before they are converted: a number of 8,000 digits costs nothing.
        if not digits or len(digits[1]) > len(str(N_MAX)) or int(digits[1]) > N_MAX:
            raise Reply(400, N_RULE)
        self.subject = "n=" + digits[1]
        return int(digits[1])


class Connection:
    """One client."""

    def __init__(self, server, sock, peer):
        self.server, self.sock, self.peer = server, sock, shown(peer)
        self.received = b""
        self.requests_left = REQUESTS_MAX
        self.began = time.monotonic()

    def answer_at_once(self):
        """Answer a client that wants one prime of the table and no more. False: nothing was answered."""
        with contextlib.suppress(OSError, Reply):  # BlockingIOError, above all: nothing has come yet
            self.received = self.sock.recv(HEAD_BYTES_MAX, socket.MSG_DONTWAIT)
            end = HEAD_END.search(self.received)
            if end and end.end() == len(self.received):
                request = Request(self.received[: end.start()].decode("latin-1"))
                n = request.n()
                if n <= TABLE_PRIMES and request.closes:
                    self.answer(request, 200, str(nth_prime(n)))
                    return True
        return False

    def serve(self):
        """The life of this connection's thread."""
        try:
            with self.sock, contextlib.suppress(OSError):  # the client has gone, or is too slow
                while self.answer_next():
                    pass
        finally:
            self.server.slots.release()

    def answer_next(self):
        """Answer one request. False if it was the last."""
        request = Request()
        try:
            request = Request(self.receive_head().decode("latin-1"))
            n = request.n()
            prime = nth_prime(n) if n <= TABLE_PRIMES else self.server.places.compute(n, self.sock)
            self.answer(request, 200, str(prime))
        except ConnectionAbortedError:
            if request.head:
                self.log("abandoned %s: the client has gone" % request.subject)
            raise
        except Reply as reply:
            self.answer(request, reply.status, reply.text, reply.fields)
            if request.closes:
                self.linger()
        return not request.closes

    def receive_head(self):
        """The next request head, without the empty line that ends it."""
        self.server.waiting[self.sock] = None
        self.began, seconds = time.monotonic(), IDLE_SECONDS
        try:
            while True:
                self.received = self.received.lstrip(b"\r\n")  # RFC 9112 section 2.2
                if self.received and seconds == IDLE_SECONDS:
                    self.began, seconds = time.monotonic(), HEAD_SECONDS
                end = HEAD_END.search(self.received)
                if (end.end() if end else len(self.received)) > HEAD_BYTES_MAX:
                    raise Reply(431, "a request head may have %d bytes" % HEAD_BYTES_MAX)
                if end:
                    head, self.received = self.received[: end.start()], self.received[end.end() :]
                    return head
                self.sock.settimeout(max(0, self.began + seconds - time.monotonic()))
                data = self.sock.recv(HEAD_BYTES_MAX)
                if not data:
                    raise ConnectionAbortedError
                self.received += data
        except (socket.timeout, BlockingIOError):  # the second when the time was up before the call
            if self.received:
                self.log("closed: no whole request head in %d s" % HEAD_SECONDS)
            raise
        finally:
            self.server.waiting.pop(self.sock, None)
            self.sock.settimeout(WRITE_SECONDS)

    def answer(self, request, status, text, fields=""):
        """Send one answer, in one piece, and log one line."""
        self.requests_left -= 1
        request.closes |= self.requests_left <= 0 or self.server.stopping
        fields += "Connection: close\r\n" if request.closes else (
            "Connection: keep-alive\r\nKeep-Alive: timeout=%d, max=%d\r\n" % (IDLE_SECONDS, self.requests_left))
        answer = "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n%s" % (
            status, http.HTTPStatus(status).phrase, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            len(text) + 1, fields, "" if request.method == "HEAD" else text + "\n")
        self.sock.sendall(answer.encode("ascii"))
        self.log("request %s status=%d" % (request.subject, status))

    def linger(self):
        """Throw away what still comes, briefly: to close a socket with unread bytes resets it, and the reset
        may overtake the answer."""
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.settimeout(LINGER_SECONDS)
        deadline = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < deadline and self.sock.recv(HEAD_BYTES_MAX):
            pass

    def log(self, text, level="info"):
        log(level, "%s ms=%d client=%s" % (text, (time.monotonic() - self.began) * 1000, self.peer))


class Server:
    """The listening socket and all connections."""

    def __init__(self, listener, places, connections_max):
        self.listener, self.places, self.connections_max = listener, places, connections_max
        self.slots = threading.BoundedSemaphore(connections_max)  # one for each thread of a connection
        self.waiting = {}  # the sockets on which no request is under way, the longest waiting first
        self.stopping = False

    def accept_for_ever(self):
        while not self.stopping:
            try:
                connection = Connection(self, *self.listener.accept())
                # To start a thread takes longer than most answers. So this thread answers what needs no waiting.
                if connection.answer_at_once() or not self.start_thread(connection):
                    connection.sock.close()  # unanswered, that is a reset: a balancer asks another server at once
            except OSError as error:
                if not self.stopping:
                    log("warn", "accept: %s; pausing" % error.strerror)
                    self.close_longest_waiting()
                    time.sleep(ACCEPT_PAUSE_SECONDS)

    def start_thread(self, connection):
        """False if there is no room for another connection."""
        if not self.slots.acquire(blocking=False):
            self.close_longest_waiting()
            if not self.slots.acquire(timeout=GIVE_WAY_SECONDS):
                connection.log("refused: every connection has a request under way", "warn")
                return False
        try:
            threading.Thread(target=connection.serve, daemon=True).start()
        except RuntimeError as error:  # the system gives no thread
            self.slots.release()
            connection.log("refused: %s" % error, "error")
            return False
        return True

    def close_longest_waiting(self):
        for sock in list(self.waiting)[:1]:
            self.waiting.pop(sock, None)
            with contextlib.suppress(OSError):  # the client was faster
                sock.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends

    def stop(self):
        """At once: a prime may be minutes away, and the balancer asks another server when it hears 503."""
        self.stopping = True
        self.places.stop_end.close()
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        deadline = time.monotonic() + STOP_SECONDS
        for _ in range(self.connections_max):
            self.close_longest_waiting()
            self.slots.acquire(timeout=max(0, deadline - time.monotonic()))
        self.places.end()


def connections_max():
    """As many connections as the limit of descriptors allows, which is raised as far as it may be."""
    wanted = DESCRIPTORS_SPARE + DESCRIPTORS_PER_CONNECTION * CONNECTIONS_MAX
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    count = max(1, (allowed - DESCRIPTORS_SPARE) // DESCRIPTORS_PER_CONNECTION)
    if count < CONNECTIONS_MAX:
        log("warn", "only %d descriptors (ulimit -n): at most %d connections at a time" % (allowed, count))
    return count


# ---------------------------------------------------------------------------------------------------
# 4. The program
# ---------------------------------------------------------------------------------------------------
#
# Why: whoever runs a worker wants to set its limits, to read what it does, and to stop it.

LEVELS = ("off", "error", "warn", "info", "debug", "trace")
PROCESSES_PER_CORE, PROCESSES_MAX = 4, 256
QUEUE_DEFAULT, QUEUE_MAX = 128, 10_000
LOG_TEXT_MAX = 120

log_level, log_file, log_lock = LEVELS.index("info"), None, threading.Lock()


def log(level, text):
    """One line per event, on standard error and in the file. A full disk or a closed terminal stops no prime."""
    if LEVELS.index(level) > log_level:
        return
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line = ("%s.%03dZ %-5s %s\n" % (stamp, now % 1 * 1000, level.upper(), text)).encode("utf-8", "replace")
    with log_lock, contextlib.suppress(OSError):
        append_to_file(line)
    with log_lock, contextlib.suppress(OSError):
        if select.select((), (2,), (), 0)[1]:  # else a pipe that nobody reads is full: the line is lost
            os.write(2, line)


def append_to_file(line):
    """The file is opened for each line: after logrotate(8) has renamed it, the next line begins a new one."""
    if log_file:
        with open(log_file, "ab", 0) as file:
            file.write(line)


def escape(text):
    """What a client sent as one printable, quoted word for the log: no control character, no new line."""
    word = text[:LOG_TEXT_MAX].rstrip("\r").encode("unicode_escape").decode().replace('"', '\\"')
    return '"%s%s"' % (word, "..." if len(text) > LOG_TEXT_MAX else "")


def shown(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]


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
        "exit status:  0 stopped by SIGTERM, SIGINT or (without --log-file) SIGHUP; 2 bad usage; 1 any other failure\n\n"
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
    option("--version", action="version", version="worker.py %s" % VERSION)
    return parser, parser.parse_args()


def listen(parser, options):
    """The listening socket. What accept(2) returns has the same options."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.bind, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        parser.error("argument --bind: %r is no address of this machine (%s)" % (options.bind, error))
    try:
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=":" in address[0])
    except OSError as error:
        parser.exit(1, "worker.py: cannot listen on %s: %s; choose another --port or --bind (`ss -ltnp` shows who "
                    "listens, `ip address` what can be bound)\n" % (shown(address), os.strerror(error.errno).lower()))
    for option in SOCKET_OPTIONS:
        listener.setsockopt(*option)
    return listener


def main():
    global log_level, log_file
    # Started with a closed standard stream (`2>&-`), the next socket would take its number, and its place.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    parser, options = arguments()
    log_level, log_file = LEVELS.index(options.log_level), options.log_file
    try:
        os.makedirs(os.path.dirname(log_file or "") or ".", exist_ok=True)
        append_to_file(b"")  # creates it, or says at once that it cannot be
    except OSError as error:
        parser.exit(2, "worker.py: cannot open the log file %s: %s; choose another --log-file\n" % (
            log_file, error.strerror.lower()))
    gc.freeze()  # a garbage collection in a copy of this process would write to, and so copy, all that they share
    try:
        places = Places(options.processes, options.queue)
    except OSError as error:
        parser.exit(1, "worker.py: cannot start its fork server: %s\n" % error.strerror.lower())
    server = Server(listen(parser, options), places, connections_max())
    threading.stack_size(THREAD_STACK_BYTES)
    threading.Thread(target=server.accept_for_ever, daemon=True).start()
    address = shown(server.listener.getsockname())
    log("info", "started: version=%s pid=%d address=%s processes=%d queue=%d" % (
        VERSION, os.getpid(), address, options.processes, options.queue))
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(1, b"worker listening on %s\n" % address.encode())

    # nohup(1) has SIGHUP ignored, and means it. To a program with a log file, SIGHUP says: the file was renamed.
    no_stop = log_file or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    number = signal.sigwait(STOP_SIGNALS - ({signal.SIGHUP} if no_stop else set()))
    log("info", "stopping: %s" % signal.Signals(number).name)
    server.stop()
    log("info", "stopped")


if __name__ == "__main__":
    main()
