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

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
if __name__ == "__main__":
    # The kernel keeps them until main() waits for them. Threads and children inherit this: main() alone decides.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

import argparse
import concurrent.futures
import contextlib
import fcntl
import gc
import http.server
import logging.handlers
import math
import os
import re
import resource
import select
import socket
import sys
import threading
import time
from array import array
from bisect import bisect_right
from itertools import accumulate, compress, repeat

VERSION = "0.1.0"
log = logging.getLogger("worker")

# ---- 1. The mathematics ----------------------------------------------------------------------------------------------
#
# To find the billionth prime one could list all primes up to 22,801,763,489. But to *count* the primes below a point
# close to it is enough, and far cheaper:
#
#   a. guess:  x, close to p(N), from the density of the primes;
#   b. count:  pi(x), the number of primes up to x, exactly, in about x^(3/4) cheap steps;
#   c. walk:   from x to the right prime with an ordinary sieve over a short stretch.
#
# Step b is exact, so a bad guess costs time, and never the answer. What makes Python fast enough: a bytearray is
# sieved by slice assignment and counted by .count(). Both run in C, and nearly all work is of these two kinds.
#
# Odd numbers only: in every array of flags, index i stands for the odd number 2i+1 (plus an even start).

N_MAX = 10**12  # half a minute of a core, and 30 MB. On a busy machine, more would outlast the balancer's deadline
TABLE_PRIMES = 100_000  # so many primes are kept in a table (400 KB); up to here an answer is a look-up
TABLE_LIMIT = 1_299_709  # p(100,000), the last prime of the table


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
    """Clear every `step`-th flag from index `first` on. A step of p indices is a step of 2p in numbers."""
    flags[first::step] = bytes(len(range(first, len(flags), step)))


def strike_multiples(flags, p, start):
    """Clear the flags of the odd multiples of p, where the flags begin at the even number `start`."""
    strike(flags, (((start // p + 1) | 1) * p - start) // 2, p)


SEGMENT_ODDS = 400_000  # flags sieved at a time: they stay in the processor's cache

# Where the split point y = sqrt(x / LEAF_BALANCE) lies. A greater y means more leaves, a smaller y a longer stretch to
# sieve. Measured best between 60 and 120 for N from 10^8 to 10^10; any value gives the same answer.
LEAF_BALANCE = 80


def prime_count(x):
    """pi(x), the number of primes up to x, exactly.

    Write phi(v, b) for the count of numbers in 1..v that none of the first b primes p_1..p_b divides. Choose y between
    the cube root and the square root of x, and let a = pi(y). Then phi(x, a) counts 1, the primes above y, and the
    products of two primes above y (three would exceed x). Hence Meissel's formula

        pi(x) = phi(x, a) + a - 1 - P2,     P2 = sum over primes y < q <= sqrt(x) of (pi(x/q) - pi(q) + 1)

    To strike the multiples of p_b means phi(v, b) = phi(v, b-1) - phi(v/p_b, b-1). Unfolded again and again, this is a
    tree of nodes mu(m) * phi(x/m, b), where m is a product of different primes; mu(m) is +1 if their number is even,
    else -1. Lagarias, Miller and Odlyzko stop at two kinds of leaves:

      ordinary:  m <= y, and b is down to 1: phi counts the odd numbers;
      special:   -mu(m) * phi(x/(m*p_b), b-1),  where m <= y but m * p_b > y, and all primes of m are greater than p_b.

    Special leaves with p_b above the fourth root of x are easy: m must be one prime q then, and x/(p_b*q) is less than
    p_b squared, so that phi counts 1 and the primes from p_b on. For the hard ones a sieve up to x/y strikes one prime
    after the other: phi(v, b-1) is the number of flags that stand up to v just before it strikes the multiples of p_b.
    """
    root = math.isqrt(x)
    # The cube root in floating point may be one off; y need not be exact but must not lie below it.
    y = min(max(math.isqrt(x // LEAF_BALANCE), int(x ** (1 / 3)) + 2), root)

    flags = odd_sieve(root)
    # pi(v) for 2 <= v <= sqrt(x) is pi_table[(v-1)//2].
    pi_table = array("i", accumulate(flags))
    primes = primes_of(flags)
    a = pi_table[(y - 1) // 2]
    hard = pi_table[(math.isqrt(root) - 1) // 2]  # p_b is at most the fourth root for b <= hard

    composites, signs = leaf_numbers(y, primes)
    phi = sum([(x // m + 1) // 2 if sign > 0 else -((x // m + 1) // 2) for m, sign in zip(composites, signs)])
    phi += easy_leaves(x, y, primes, pi_table, a, hard)
    phi_hard, p2 = hard_leaves_and_p2(x, y, root, primes, pi_table, a, hard, composites, signs)
    return phi + phi_hard + a - 1 - p2


def leaf_numbers(y, primes):
    """The numbers m <= y that can stand in a leaf: products of different odd primes, ascending. Beside each stands
    a number that holds two facts: its sign is mu(m), its size the least prime that divides m."""
    primes = primes[1 : bisect_right(primes, y)]
    facts = array("i", bytes(4 * (y + 1)))  # of each m; 0 if it can stand in no leaf
    facts[1] = y + 1  # no prime divides 1, so each of them may follow
    for m, fact in enumerate(facts):  # from each m on to the products with one prime more, less than those of m
        for p in primes:
            if p >= abs(fact) or m * p > y:
                break
            facts[m * p] = -p if fact > 0 else p
    return array("i", compress(range(y + 1), facts)), array("i", filter(None, facts))


def easy_leaves(x, y, primes, pi_table, a, hard):
    """The sum over pairs of primes p_b < q <= y, with p_b above the fourth root of x, of phi(x/(p_b*q), b-1): each is 1
    plus the primes from p_b to x/(p_b*q), which are pi(x/(p_b*q)) - (b-1) if that reaches p_b, else none."""
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
    """The hard leaves and P2, from one pass of a sieve over 1..x/y, segment by segment."""
    phi, p2 = 0, 0
    y_root = math.isqrt(y)
    carried = [0] * hard  # phi(start of the segment, b-1) for each b
    pi_carried = pi_table[(root - 1) // 2]  # pi(x/q) is wanted from sqrt(x) on
    q_index = len(primes) - 1  # of the greatest q that P2 has not had yet
    for start in range(0, x // y + 1, 2 * SEGMENT_ODDS):
        length = min(SEGMENT_ODDS, (x // y - start) // 2 + 1)
        end = start + 2 * length  # the segment holds the numbers v with start <= v < end
        segment = bytearray(b"\1") * length
        count = segment.count

        struck = 1  # how many primes: an even number has no flag
        while struck < hard:
            p = primes[struck]
            quotient = x // p
            if quotient // p < start:
                break  # m > p, so no leaf of this p, or of a greater one, lies this far out
            # The leaves in this segment: v = x/(m*p) with start <= v < end, and y/p < m <= y.
            m_above = max(y // p, quotient // end, p)
            m_last = min(y, quotient // start) if start else y
            standing, position = carried[struck], 0
            # If p > y_root, m is a prime: it has no room for two primes above p.
            numbers = primes if p > y_root else composites
            first, last = bisect_right(numbers, m_above), bisect_right(numbers, m_last)
            facts = repeat(-y) if p > y_root else reversed(signs[first:last])
            # From the greatest m down, so that v rises, and each flag is counted once.
            for m, sign in zip(reversed(numbers[first:last]), facts):
                if -p <= sign <= p:
                    continue  # p, or a lesser prime, divides m
                place = (quotient // m - start + 1) // 2
                standing += count(1, position, place)
                position = place
                phi += standing if sign < 0 else -standing
            carried[struck] = standing + count(1, position)
            strike_multiples(segment, p, start)
            struck += 1

        if end > root:
            # Finish the sieve: above sqrt(x) only primes stand. Count on to each x/q.
            for p in primes[struck : bisect_right(primes, min(y, math.isqrt(end)))]:
                strike_multiples(segment, p, start)
            position = max(0, (root - start + 1) // 2)
            while q_index >= a and x // primes[q_index] < end:
                place = (x // primes[q_index] - start + 1) // 2
                pi_carried += count(1, position, place)
                position = place
                p2 += pi_carried - q_index  # pi(q) - 1 is the index of q
                q_index -= 1
            pi_carried += count(1, position)
    return phi, p2


def estimate(n):
    """A number close to p(n): the x where n = li(x) - sqrt(x) / ln x, the beginning of Riemann's formula, by Newton's
    method with the slope 1 / ln x. Here li(x) is the integral of 1 / ln t, the density of the primes, as a series."""
    x = n * math.log(n)
    for _ in range(3):
        ln_x = math.log(x)
        li, term = 0.5772156649 + math.log(ln_x), 1.0  # Euler's constant
        for k in range(1, 100):
            term *= ln_x / k
            li += term / k
        x -= (li - math.sqrt(x) / ln_x - n) * ln_x
    return int(x)


def primes_between(start, end):
    """The primes between two even numbers, both far above the square root of `end`."""
    flags = bytearray(b"\1") * ((end - start) // 2)
    for p in primes_of(odd_sieve(math.isqrt(end)))[1:]:
        strike_multiples(flags, p, start)
    return array("q", compress(range(start + 1, end, 2), flags))


TABLE = primes_of(odd_sieve(TABLE_LIMIT))


def nth_prime(n):
    """p(n), exactly, for 1 <= n <= N_MAX."""
    if n <= TABLE_PRIMES:
        return TABLE[n - 1]
    x = estimate(n) // 2 * 2
    below = prime_count(x)
    width = max(1 << 12, math.isqrt(x) // 4 * 2)
    while below >= n:  # there are too many primes below x: back
        x -= width
        below -= len(primes_between(x, x + width))
    while len(primes := primes_between(x, x + width)) < n - below:
        x += width
        below += len(primes)
    return primes[n - below - 1]


# ---- 2. The computations ---------------------------------------------------------------------------------------------
#
# The threads of one Python program take turns on one core. So each N is computed by a process of its own, and the
# kernel shares the cores: a small N does not wait for big ones. To fork(2) takes a millisecond, and with threads it is
# dangerous: a lock that another thread holds stays locked in the copy for ever. Hence the *fork server*, a process
# without threads: it forks the computing processes before they are needed, and replaces each that ends.
#
#     HTTP server -- order: N, and one end of a channel --> whichever computing process is free
#          ^                                                                |
#          +--------------------- p(N), through the channel ----------------+
#
# The channel is a pair of sockets, and a leash: when the HTTP server closes its end, or dies in whatever way, the
# kernel ends the computing process.

SMALL_N_MAX = 10**8  # up to here N is small: below a tenth of a second. Some places are kept for small N
NICE_SMALL, NICE_BIG = 5, 10  # nice(2): the HTTP server goes before a small N, and a small N before a big one
N_PER_SECOND = 10**10  # the queue is sorted by arrival in seconds + N / N_PER_SECOND: big N wait longer, not for ever
MESSAGE_BYTES_MAX = 64  # of an order or of p(N): both are decimal digits
NO_MORE_ORDERS = 3  # the exit code of a computing process that is not needed any more
STOP_SECONDS, FORK_PAUSE_SECONDS = 5, 1  # how long stop() waits at most; the pause after a failed fork(2)


def fork(function, *arguments):
    """Run function(*arguments) in a copy of this process, which ends with what it returns. The copy's pid."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(function(*arguments))
        except Exception as error:  # MemoryError, above all
            log.error("process %d failed: %r", os.getpid(), error)
        finally:
            os._exit(1)  # whatever happened: it must not go on with what its parent was doing
    return child


def keep_processes(processes, orders, http_server_end):
    """The fork server: keep so many computing processes alive, until the HTTP server has gone."""
    http_server_end.close()
    alive, over = 0, False
    while alive or not over:
        try:
            if alive < processes and not over:
                fork(take_orders, orders)
                alive += 1
            else:
                over |= os.waitstatus_to_exitcode(os.wait()[1]) == NO_MORE_ORDERS
                alive -= 1
        except OSError as error:  # the system has no memory, or no process left
            log.error("fork: %s; trying again", error.strerror)
            time.sleep(FORK_PAUSE_SECONDS)
    return 0


def take_orders(orders):
    """A computing process. All of them read the same socket: one that is free gets the next order."""
    os.nice(NICE_SMALL)
    while (order := socket.recv_fds(orders, MESSAGE_BYTES_MAX, 1))[0]:
        n = int(order[0])
        with socket.socket(fileno=order[1][0]) as channel:
            compute(n, channel)
        if n > SMALL_N_MAX:
            return 0  # compute() has lowered the priority of this process, which cannot be undone
    return NO_MORE_ORDERS


def compute(n, channel):
    """Send p(n) through the channel."""
    # The leash, see fcntl(2): when the other end is closed, the kernel sends SIGIO, which ends this process at once.
    fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(channel, fcntl.F_SETFL, os.O_ASYNC)
    if select.select((channel,), (), (), 0)[0]:
        return  # it was closed before the kernel was asked
    if n > SMALL_N_MAX:
        os.nice(NICE_BIG - NICE_SMALL)
    log.debug("process %d computes n=%d", os.getpid(), n)
    prime = nth_prime(n)
    fcntl.fcntl(channel, fcntl.F_SETFL, 0)  # no leash any more: the HTTP server closes its end when it has the prime
    with contextlib.suppress(BrokenPipeError):
        channel.send(b"%d" % prime)


class Job:
    """One N that a thread of the HTTP server waits for: p(N) comes on `channel`, or its end if the process died."""

    def __init__(self, n):
        self.n, self.turn = n, time.monotonic() + n / N_PER_SECOND
        self.channel, self.far_end = socket.socketpair()


class Places:
    """Decides who computes and who waits: there is one place for each computing process. Any thread may call it."""

    def __init__(self, processes, queue_max):
        """No thread may run yet: this forks."""
        # SOCK_SEQPACKET: an order arrives whole, at one process; the end of the sender is an end of file.
        self.orders, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            self.fork_server = fork(keep_processes, processes, far_end, self.orders)
        self.processes, self.kept, self.queue_max = processes, processes // 4, queue_max
        self.running, self.queue = set(), []  # the queue is sorted: whose turn comes first
        self.stopping = False
        self.changed = threading.Condition()  # whoever holds it may change the three fields above

    def has_place(self, n):
        return len(self.running) < self.processes - (0 if n <= SMALL_N_MAX else self.kept)

    def enter(self, n):
        """A job for n, which computes or waits in the queue. None if there is room for neither."""
        with self.changed:
            if self.stopping or not self.has_place(n) and len(self.queue) >= self.queue_max:
                return None
            try:
                job = Job(n)
            except OSError as error:  # no descriptor is left: this server is busy, not broken
                log.warning("n=%d finds no place: %s", n, error)
                return None
            self.queue.append(job)
            self.queue.sort(key=lambda job: job.turn)
            self.start_jobs()
            if job in self.queue:
                log.debug("n=%d waits for a place", n)
            return job

    def leave(self, job):
        """The answer is here, or nobody wants it any more: then the end of the channel ends the process."""
        with self.changed:
            job.channel.close()
            job.far_end.close()
            (self.running if job in self.running else self.queue).remove(job)
            if not self.stopping:
                self.start_jobs()
            self.changed.notify_all()

    def start_jobs(self):
        for job in list(self.queue):
            if self.has_place(job.n):
                self.queue.remove(job)
                self.running.add(job)
                socket.send_fds(self.orders, [b"%d" % job.n], [job.far_end.fileno()])
                job.far_end.close()

    def stop(self):
        """At once: a prime may be minutes away, and the balancer asks another server when it hears 503."""
        with self.changed:
            self.stopping = True
            self.orders.close()
            for job in [*self.queue, *self.running]:
                job.channel.shutdown(socket.SHUT_RDWR)  # the thread that waits sees it, and the process ends
            self.changed.wait_for(lambda: not self.queue and not self.running, STOP_SECONDS)
        os.waitpid(self.fork_server, 0)


# ---- 3. The HTTP server ----------------------------------------------------------------------------------------------
#
# http.server reads the requests, in one thread for each connection. Added here are a bound on the connections and on
# every wait, and what HTTP demands beyond it.

CONNECTIONS_MAX = 512  # each has a thread. Beyond it, the one that has waited longest for a request gives way
DESCRIPTORS_PER_CONNECTION, DESCRIPTORS_SPARE = 3, 16  # its socket and a channel; the log, the fork server, ...
THREAD_STACK_BYTES = 256 * 1024
REQUESTS_MAX = 1000  # on one connection; then the client opens another
IDLE_SECONDS = 60  # how long a connection may wait for its first or next request
IO_SECONDS = 10  # how long it may pause in the middle of a request head, or of an answer
LINGER_SECONDS = 1  # how long the rest of a refused request is read and thrown away
PAUSE_SECONDS = 0.1  # before the next connection gives way, and after an accept(2) that failed
# From the client's end of file to giving up its N. Not at once, for a client may only have ended its sending side, as
# `printf 'GET /N ...' | nc` does. TCP cannot tell the two apart.
GONE_SECONDS = 0.5

N_RULE = "N must be a whole number from 1 to %d, in decimal digits" % N_MAX
USAGE = "ask for GET /N, the Nth prime, N from 1 to %d" % N_MAX
ALLOW, RETRY_AFTER = ("Allow", "GET, HEAD, OPTIONS"), ("Retry-After", "1")


class Connection(http.server.BaseHTTPRequestHandler):
    """One client, in a thread of its own. Any OSError ends it: the client has gone, or is too slow."""

    protocol_version = default_request_version = request_version = "HTTP/1.1"
    server_version, sys_version = "worker.py/" + VERSION, ""
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together, at flush()
    requests_left = REQUESTS_MAX

    def handle_one_request(self):
        """Wait for a request and answer it: http.server calls parse_request(), then do_GET() and the like."""
        self.command, self.requestline, self.n = None, "", None
        self.server.waiting[self.connection] = None
        self.connection.settimeout(IDLE_SECONDS)
        self.rfile.peek()
        self.began = time.monotonic()
        self.connection.settimeout(IO_SECONDS)
        super().handle_one_request()

    def parse_request(self):
        """False: the request is answered already."""
        understood = super().parse_request()
        self.server.waiting.pop(self.connection, None)
        self.requests_left -= 1
        if not understood:
            return False
        # RFC 9112 section 9.3. http.server looks only at the first Connection header, and expects one word there.
        wishes = re.split("[ \t]*,[ \t]*", ",".join(self.headers.get_all("Connection", ())).strip().lower())
        old = self.request_version == "HTTP/1.0"
        self.close_connection = "close" in wishes or old and "keep-alive" not in wishes or self.requests_left <= 0
        if self.headers.defects or not old and len(self.headers.get_all("Host", ())) != 1:
            self.send_error(400, "header lines are NAME: VALUE, and HTTP/1.1 wants one Host")
        elif "Transfer-Encoding" in self.headers or self.headers.get_all("Content-Length", ["0"]) != ["0"]:
            self.send_error(413, "a request here has no body")
        else:
            return True
        return False

    def do_OPTIONS(self):
        self.answer(200, USAGE, ALLOW)

    def do_GET(self):
        # RFC 9112 section 3.2.2: GET http://host/5 must be understood too.
        path = re.sub("^https?://[^/?#]*", "", self.requestline.split()[1], flags=re.I).partition("?")[0]
        digits = re.fullmatch("/0*([1-9][0-9]*)", path)
        if not re.fullmatch("/[^/]+", path):
            self.answer(404, USAGE)
        # The digits are counted before they are converted: a number of 8,000 digits costs nothing.
        elif not digits or len(digits[1]) > len(str(N_MAX)) or int(digits[1]) > N_MAX:
            self.answer(400, N_RULE)
        else:
            self.n = int(digits[1])
            self.answer_n()

    do_HEAD = do_GET  # answer() leaves the body out

    def answer_n(self):
        places = self.server.places
        if self.n <= TABLE_PRIMES:
            return self.answer(200, str(nth_prime(self.n)))
        job = places.enter(self.n)
        if not job:
            return self.answer(503, "no place is free; try again or elsewhere", RETRY_AFTER)
        try:
            digits = self.wait_for(job)
            if places.stopping and not digits:  # answer before leave(): after the last leave(), stop() ends the program
                return self.answer(503, "this worker is stopping; try elsewhere", RETRY_AFTER)
        finally:
            places.leave(job)
        if digits:
            self.answer(200, digits.decode())
        else:
            self.answer(500, "the process that computed it has died")

    def wait_for(self, job):
        """What comes on the job's channel: the digits, or nothing if the process died."""
        poll = select.poll()
        poll.register(job.channel, select.POLLIN)
        poll.register(self.connection, select.POLLRDHUP)
        poll.poll()
        poll.unregister(self.connection)
        if not poll.poll(GONE_SECONDS * 1000):
            self.log_message("abandoned n=%d: the client has gone", self.n)
            raise ConnectionAbortedError
        return job.channel.recv(MESSAGE_BYTES_MAX)

    def answer(self, status, text, *fields):
        """Send one answer, in one piece."""
        self.close_connection |= self.server.places.stopping
        body = (text + "\n").encode()
        offer = ("Keep-Alive", "timeout=%d, max=%d" % (IDLE_SECONDS, self.requests_left))
        kept = [("Connection", "close")] if self.close_connection else [("Connection", "keep-alive"), offer]
        self.send_response(status)
        for field in (("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *fields, *kept):
            self.send_header(*field)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)
        self.wfile.flush()

    def send_error(self, code, message=None, explain=None):
        """http.server calls this for a request that it does not understand."""
        if code == 501:  # it found no do_METHOD()
            return self.answer(405, USAGE, ALLOW)
        self.close_connection = True  # where the next request would begin is not known
        self.answer(code, message or self.responses[code][0])
        # Throw away what still comes, briefly: else closing resets the connection, and that may overtake the answer.
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SECONDS)
        while time.monotonic() < self.began + LINGER_SECONDS and self.rfile.read1():
            pass

    def log_request(self, code="-", size="-"):
        """send_response() calls this. ascii() escapes control characters: they could change the operator's terminal."""
        subject = "line=%s" % ascii(self.requestline[:120]) if self.n is None else "n=%d" % self.n
        self.log_message("request %s status=%d", subject, code)

    def log_message(self, format, *words):
        ms = (time.monotonic() - self.began) * 1000
        log.info(format + " ms=%d client=%s", *words, ms, shown(self.client_address))


class Server(http.server.ThreadingHTTPServer):
    """The listening socket and the connections."""

    def __init__(self, listener, places):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # raised as far as it may be
        connections_max = min(CONNECTIONS_MAX, max(1, (limit - DESCRIPTORS_SPARE) // DESCRIPTORS_PER_CONNECTION))
        if connections_max < CONNECTIONS_MAX:
            log.warning("only %d descriptors (ulimit -n): at most %d connections at a time", limit, connections_max)
        self.room = threading.BoundedSemaphore(connections_max)
        self.waiting = {}  # the sockets on which no whole request has come, the longest waiting first
        self.threads = concurrent.futures.ThreadPoolExecutor(connections_max)
        super().__init__(listener.getsockname(), Connection, bind_and_activate=False)
        self.socket, self.places = listener, places

    def get_request(self):
        """Accept one connection as soon as there is room. OSError tells serve_forever() that none was accepted."""
        pause_seconds = 0
        while not self.room.acquire(timeout=pause_seconds):
            pause_seconds = PAUSE_SECONDS
            for connection in list(self.waiting)[:1]:  # the one that has waited longest gives way
                self.waiting.pop(connection, None)
                with contextlib.suppress(OSError):  # its client was faster
                    connection.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends
        try:
            return super().get_request()
        except OSError as error:  # the machine has no descriptor left, for example
            self.room.release()
            log.warning("accept: %s; pausing", error.strerror)
            time.sleep(PAUSE_SECONDS)
            raise

    def process_request(self, request, client_address):
        """Give the connection to the pool. It keeps free threads: to start one takes longer than a short connection."""
        self.threads.submit(self.process_request_thread, request, client_address)

    def close_request(self, request):
        self.waiting.pop(request, None)
        if request.fileno() >= 0:  # else it is closed already: the system had no thread for it when it came
            super().close_request(request)
            self.room.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            log.error("client=%s: %r", shown(client_address), sys.exc_info()[1])


# ---- 4. The program --------------------------------------------------------------------------------------------------

LEVELS = {"off": 100, "error": 40, "warn": 30, "info": 20, "debug": 10, "trace": 5}  # as the module logging counts
LOG_FILE_BYTES_MAX = 64 * 1024 * 1024  # then FILE becomes FILE.1, and the older FILE.1 is removed
PRIORITIES = {40: 3, 30: 4, 20: 6}  # of the journal: syslog(3)
PROCESSES_MAX, QUEUE_MAX = 256, 10_000  # the most that --processes and --queue take


class StandardError(logging.Handler):
    def __init__(self):
        super().__init__()
        status = os.fstat(2)  # the journal of systemd wants the priority in front, and says which stream is its own
        self.is_journal = os.environ.get("JOURNAL_STREAM") == "%d:%d" % (status.st_dev, status.st_ino)

    def emit(self, record):
        # If it is a pipe that is full since nobody reads it, the line is lost: no prime waits for that.
        priority = "<%d>" % PRIORITIES.get(record.levelno, 7) if self.is_journal else ""
        with contextlib.suppress(OSError):
            if select.select((), (2,), (), 0)[1]:
                os.write(2, (priority + self.format(record) + "\n").encode())


def log_to(*handlers):
    line = "%(asctime)s.%(msecs)03dZ %(levelname)-5s %(message)s"
    logging.basicConfig(handlers=handlers, format=line, datefmt="%FT%T", force=True)


def open_log_file(path):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    file = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_FILE_BYTES_MAX, backupCount=1)
    is_standard_error = os.path.sameopenfile(2, file.stream.fileno())  # then each line is written once
    log_to(file, *() if is_standard_error else (StandardError(),))
    return file


def tell_service_manager(words):
    """Tells systemd that the worker serves, or stops, if systemd has started it: sd_notify(3)."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto(words, "\0" + name[1:] if name.startswith("@") else name)


def shown(address):
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % address[:2]


def whole(low, high):
    def check(text):
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError("%r is not a whole number from %d to %d" % (text, low, high))
        return int(text)
    return check


def command_line():
    processes = min(4 * len(os.sched_getaffinity(0)), PROCESSES_MAX)
    parser = argparse.ArgumentParser(
        prog="worker.py", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Finds the Nth prime. GET /N answers with it, N from 1 to %d." % N_MAX,
        epilog="example:  python3 worker.py &  curl http://127.0.0.1:13337/1000000\n"
        "exit status:  0 stopped by SIGTERM or SIGINT; 2 bad usage; 1 any other failure\n"
        "It answers whoever reaches it: let a firewall keep strangers out, or --bind an inner address.")
    parser.error = lambda message: parser.exit(2, "worker.py: %s; `worker.py --help` explains\n" % message)  # one line
    option = parser.add_argument
    option("--bind", metavar="ADDRESS", default="0.0.0.0", help="default 0.0.0.0: all of IPv4; :: for IPv6 too")
    option("--port", type=whole(0, 65535), default=13337, help="default 13337; 0: a free one")
    option("--processes", type=whole(1, PROCESSES_MAX), default=processes, help="primes computed at once; a quarter "
           "of these places is kept for N up to %d (default: 4 per core, here %d)" % (SMALL_N_MAX, processes))
    option("--queue", type=whole(0, QUEUE_MAX), default=128,
           help="requests that may wait for a place; beyond it 503 (default 128)")
    option("--log-level", type=str.lower, choices=LEVELS, default="info", help="default info")
    option("--log-file", metavar="FILE", help="append the log to FILE too (it always goes to stderr); at %d MiB it "
           "becomes FILE.1" % (LOG_FILE_BYTES_MAX >> 20))
    option("--version", action="version", version="worker.py %s" % VERSION)
    return parser


def main():
    # Started with a closed standard stream (`2>&-`), the next socket would take its number, and its place.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    parser = command_line()
    options = parser.parse_args()
    log.setLevel(LEVELS[options.log_level])
    logging.addLevelName(logging.WARNING, "WARN")
    logging.Formatter.converter = time.gmtime
    logging.raiseExceptions = False  # a full disk stops no prime
    log_to(StandardError())
    gc.freeze()  # a garbage collection in a copy of this process would write to, and so copy, all that they share
    places = Places(options.processes, options.queue)  # before the log file: only this process may rename that
    try:
        log_file = options.log_file and open_log_file(options.log_file)
    except OSError as error:
        parser.exit(2, "worker.py: cannot open the log file %s: %s; choose another --log-file\n" % (
            options.log_file, error.strerror.lower()))
    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.bind, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=family == socket.AF_INET6)
    except (socket.gaierror, ValueError) as error:
        parser.error("argument --bind: %r is no address of this machine (%s)" % (options.bind, error))
    except OSError as error:
        parser.exit(1, "worker.py: cannot listen on %s: %s; choose another --port or --bind (`ss -ltnp` shows who "
                    "listens, `ip address` what can be bound)\n" % (shown(address), os.strerror(error.errno).lower()))
    threading.stack_size(THREAD_STACK_BYTES)
    server = Server(listener, places)
    threading.Thread(target=server.serve_forever, args=(None,), daemon=True).start()
    address = shown(server.server_address)
    log.info("started: version=%s pid=%d address=%s processes=%d queue=%d",
             VERSION, os.getpid(), address, options.processes, options.queue)
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(1, b"worker listening on %s\n" % address.encode())
    tell_service_manager(b"READY=1\nSTATUS=serves at %s\n" % address.encode())
    while (number := signal.sigwait(SIGNALS)) in (signal.SIGHUP, signal.SIGCHLD):
        if number == signal.SIGHUP:
            if log_file:
                log_file.close()  # logrotate(8) has renamed it: the next line opens it by its name
            log.info("SIGHUP: the log file, if there is one, is opened again")
        elif os.waitpid(places.fork_server, os.WNOHANG)[0]:  # else somebody has only stopped it for a while
            log.error("the fork server was killed; without it nothing can be computed: start the worker again")
            os._exit(1)
    log.info("stopping: %s", signal.Signals(number).name)
    tell_service_manager(b"STOPPING=1\n")
    places.stop()
    log.info("stopped")
    os._exit(0)  # without the threads: they may wait for clients


if __name__ == "__main__":
    main()
