#!/usr/bin/env python3
"""Prints the table "The worker" of docs/benchmarks.md: what one prime costs, measured here and now.

    python3 tests/bench/worker.py            N = 10^3 to 10^9, about two minutes
    python3 tests/bench/worker.py --to 12    up to 10^12, which is the most that worker.py answers

Three ways to the same prime, each on one core, and each answer compared with the others':
  worker.py        its function nth_prime, without HTTP
  primesieve       `primesieve N --nth-prime --threads=1`, the fastest known sieve (C++, apt-get install primesieve)
  trial division   every odd number divided by the primes up to its square root, in Python
The figures are processor time, not time on the clock, so that what else the machine does matters less. The
best of three runs; a single run of what takes longer than 5 s. A way stops where its next row would take
longer than 100 s, estimated from its last two rows.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
import worker

ROW_SECONDS_MAX = 100
REPEAT_BELOW_SECONDS = 5
RUNS = 3


def by_primesieve(n):
    command = ["primesieve", str(n), "--nth-prime", "--threads=1", "--quiet"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def by_trial_division(n):
    primes = [2]
    candidate = 1
    while len(primes) < n:
        candidate += 2
        for p in primes:
            if p * p > candidate:
                primes.append(candidate)
                break
            if candidate % p == 0:
                break
    return primes[n - 1]


def processor_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def best_time(way, n):
    """Seconds and the answer."""
    # What a program started for the purpose spends is booked under the children.
    who = resource.RUSAGE_CHILDREN if way is by_primesieve else resource.RUSAGE_SELF
    best = None
    for _ in range(RUNS):
        begin = processor_seconds(who)
        answer = way(n)
        seconds = processor_seconds(who) - begin
        best = seconds if best is None else min(best, seconds)
        if seconds > REPEAT_BELOW_SECONDS:
            break
    return best, answer


def shown(seconds):
    if seconds is None:
        return "not run"
    if seconds < 0.0001:
        return "below 0.1 ms"
    return "%.1f ms" % (seconds * 1000) if seconds < 0.1 else "%.2f s" % seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=int, default=9, choices=range(3, 13), metavar="EXPONENT",
                        help="the last row is 10^EXPONENT (3 to 12)")
    last = parser.parse_args().to

    ways = {"worker.py": worker.nth_prime}
    if shutil.which("primesieve"):
        ways["primesieve"] = by_primesieve
    ways["trial division"] = by_trial_division
    print("| N | p(N) | %s |" % " | ".join(ways))
    print("|---|---|%s" % ("---|" * len(ways)))
    past = {way: [] for way in ways}
    for exponent in range(3, last + 1):
        answers, row = set(), []
        for name, way in ways.items():
            times = past[name]
            growth = times[-1] / max(times[-2], 1e-6) if len(times) > 1 else 10
            seconds = None
            if not times or times[-1] * growth < ROW_SECONDS_MAX:
                seconds, answer = best_time(way, 10**exponent)
                answers.add(answer)
            times.append(float("inf") if seconds is None else seconds)
            row.append(shown(seconds))
        assert len(answers) == 1, answers
        print("| 10^%d | %s | %s |" % (exponent, format(answers.pop(), ","), " | ".join(row)), flush=True)


if __name__ == "__main__":
    main()
