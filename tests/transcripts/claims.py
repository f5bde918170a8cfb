"""What the pages claim about their transcripts, as assertions: one small function for each claim.

A claim gets the steps of a page up to and including its own (see page.py) and raises `Wrong` if their outputs
do not bear it out. It is used on the outputs of a run and on those that stand in the page. `GENERAL` claims
hold after every step; `NAMED` ones where `<!-- claims: name word ... -->` stands above a block.
"""

import re


class Wrong(Exception):
    """A claim does not hold."""


def expect(holds, what):
    if not holds:
        raise Wrong(what)


# ------------------------------------------------------------------------------- reading what was shown

# The live table has a mark before the id, as the page has, and before the state of a server.
NODE_ROW = re.compile(
    r" +([^\w\s?] )?(?P<id>\d+|\?)  (?P<role>\S.*?) +(?P<term>\d+|-) +(?P<leader>\d+|-) +(?P<commit>\d+|-)"
    r" +(?P<applied>\d+|-)( +(?P<pid>\d+|-|gone|by hand))?  (?P<digest>[0-9a-f]{8}|-) +(127\.0\.0\.1|10\.0\.0\.\d+):800\d$"
)
SERVER_ROW = re.compile(
    r"(?P<id>server-\d+|lab-\d+|10\.0\.0\.\d+) +([^\w\s] )?(?P<state>\w.*?) +(?P<cpu>\d+\.\d) +\d+ +\d+"
    r"  (127\.0\.0\.1|10\.0\.0\.\d+):"
)
MEMBER = re.compile(r"  node (?P<id>\d+): (?P<kind>\w+), .*cluster (?P<cluster>[\d.:]+), public ")
LOG_LINE = re.compile(r"(?P<time>\d\d:\d\d:\d\d\.\d+) (?P<text>.*)")


# The commands with which a page begins a new cluster.
BEGINNINGS = ("rm -rf rakit-cluster", "target/release/rakit init --nodes", "mkdir ../by-hand")


def latest(steps, words):
    """What the latest command with these words has shown."""
    found = [step for step in steps if words in step.command]
    expect(found, f"nothing like {words} was typed")
    return found[-1].output


def rows(step):
    """The rows of the table of nodes in a step."""
    return [match.groupdict() for match in map(NODE_ROW.match, step.output) if match]


def table(steps):
    """The rows of the newest table of nodes, and those of the one before."""
    tables = [found for found in map(rows, this_cluster(steps)) if found]
    expect(tables, "no table of nodes was shown")
    return tables[-1], tables[-2] if len(tables) > 1 else []


def this_cluster(steps):
    """The steps since the cluster began anew."""
    begins = [i for i, step in enumerate(steps) if step.command.startswith(BEGINNINGS)]
    return steps[begins[-1]:] if begins else steps


def leaders(found):
    return [row for row in found if row["role"] == "leader"]


def log_lines(step):
    """The log lines of a step as (time, text); lines that were folded are whole again."""
    whole = []
    for line in step.output:
        match = LOG_LINE.match(line)
        if match:
            whole.append([match["time"], match["text"]])
        elif whole:
            whole[-1][1] = whole[-1][1].rstrip() + " " + line
    return [(time, text) for time, text in whole]


def position(lines, pattern):
    """Where the first log line is that matches."""
    found = [i for i, (_, text) in enumerate(lines) if re.search(pattern, text)]
    expect(found, f"no line is like: {pattern}")
    return found[0]


def counts(step):
    """What `uniq -c` has counted."""
    return counts_of(step.output)


def counts_of(output):
    words = [line.split() for line in output]
    return {row[-1]: int(row[0]) for row in words if row and row[0].isdigit()}


# ------------------------------------------------------------------------------------- after every step

def one_leader_per_term(steps):
    seen = {}
    for step in this_cluster(steps):
        said = [(int(row["term"]), row["id"]) for row in leaders(rows(step))]
        for line in step.output:
            elected = re.search(r"node (\d) leads term (\d+), elected", line)
            said += [(int(elected[2]), elected[1])] if elected else []
        for term, node in said:
            expect(seen.setdefault(term, node) == node, f"nodes {seen[term]} and {node} both lead term {term}")


def equal_tables_at_equal_indexes(steps):
    seen = {}
    for step in this_cluster(steps):
        for row in rows(step):
            if row["digest"] != "-":
                digest = seen.setdefault(row["applied"], row["digest"])
                expect(digest == row["digest"], f"two digests at index {row['applied']}")


GENERAL = [one_leader_per_term, equal_tables_at_equal_indexes]

# --------------------------------------------------------------------------------- where a page says so

def cluster_is_ready(steps):
    output = steps[-1].output
    expect("ready" in output, "it is not ready")
    expect(len(rows(steps[-1])) == 5, "there are not five nodes")
    expect(sum(line.startswith("server-") for line in output) == 3, "there are not three servers")


def same_prime(steps, n):
    primes = {"1000": "7919", "1000000": "15485863"}
    answers = [line for line in steps[-1].output if line.isdigit()]
    expect(answers and set(answers) == {primes[n]}, f"not every answer is {primes[n]}, the prime number {n}")
    return answers


def same_prime_everywhere(steps, n):
    expect(len(same_prime(steps, n)) == 5, "not all five nodes answer")


def is_busy(steps, server):
    loads = {row["id"]: float(row["cpu"]) for row in map(SERVER_ROW.match, steps[-1].output) if row}
    others = [load for name, load in loads.items() if name != server]
    expect(len(others) == 2, "there are not three servers")
    expect(loads[server] >= 10 and loads[server] > max(others), f"{server} is not the busiest: {loads}")


def go_elsewhere(steps, number, server):
    answers = counts(steps[-1])
    expect(sum(answers.values()) == int(number), f"not {number} answers: {answers}")
    expect(server not in answers, f"{server} was asked: {answers}")


def one_leads(steps):
    found, _ = table(steps)
    expect(len(leaders(found)) == 1, f"{len(leaders(found))} nodes lead")
    leader = leaders(found)[0]
    for row in found:
        if row["term"] != "-":
            same = (row["term"], row["leader"]) == (leader["term"], leader["id"])
            expect(same, f"node {row['id']} does not follow node {leader['id']}")


def another_leads(steps):
    one_leads(steps)
    (new, *_), (old, *_) = map(leaders, table(steps))
    expect(new["id"] != old["id"], f"node {new['id']} leads again")
    expect(int(new["term"]) > int(old["term"]), "the term has not grown")


def cut_off_leader_gave_up(steps):
    found, _ = table(steps)
    led = leaders(found)
    expect(len(led) == 1, f"{len(led)} nodes lead")
    alone = [row for row in found if row["leader"] != led[0]["id"]]
    expect(len(alone) == 1 and alone[0]["leader"] == "-", f"not exactly one node is without a leader: {alone}")
    expect(int(alone[0]["term"]) < int(led[0]["term"]), "the one that is cut off has the newer term")


def do_not_answer(steps, number):
    found, _ = table(steps)
    silent = sum(row["role"] == "no answer" for row in found)
    expect(silent == int(number) and len(found) == 5, f"{silent} nodes do not answer")


def nobody_leads_and_the_term_stands(steps):
    found, before = table(steps)
    expect(not leaders(found), "there is a leader")
    terms = [{row["term"] for row in rows_of if row["term"] != "-"} for rows_of in (found, before)]
    expect(terms[0] == terms[1], f"the terms were {terms[1]} and are {terms[0]}")


def all_follow_one(steps):
    one_leads(steps)
    expect(all(row["term"] != "-" for row in table(steps)[0]), "not every node answers")


def stale_primes(steps, nodes, n):
    expect(len(same_prime(steps, n)) == int(nodes), f"not {nodes} nodes answer")
    stale = [line for line in steps[-1].output if line.startswith("X-Rakit-Stale-Ms: ")]
    expect(len(stale) == int(nodes), "not every answer says how old its state is")


def three_roles(lines):
    """Pre-candidate, candidate, leader, in this order: the place of each line, the leader, its term and its electors."""
    times = [time for time, _ in lines]
    expect(times == sorted(times), "the times do not grow")
    leads = position(lines, "leads term")
    elected = re.search(r"node (\d) leads term (\d+), elected by nodes (.*)", lines[leads][1])
    leader, term, voters = elected.groups()
    asks = position(lines, f"node {leader} is a pre-candidate in term")
    runs = position(lines, f"node {leader} is a candidate in term {term}")
    expect(asks < runs < leads, f"node {leader} leads before it has asked")
    electors = set(voters.split(", "))
    expect(leader in electors and len(electors) == 3, f"{voters} are not the leader and two more")
    return asks, runs, leads, leader, term, electors


def three_roles_in_order(steps):
    three_roles(log_lines(steps[-1]))


def election_in_order(steps):
    """The three roles of the leader, and between them the pre-votes and the votes that it takes."""
    lines = log_lines(steps[-1])
    asks, runs, leads, leader, term, electors = three_roles(lines)
    for elector in electors - {leader}:
        votes = position(lines, f"^vote: node {elector} votes for node {leader} in term {term}$")
        expect(runs < votes < leads, f"the vote of node {elector} stands in a wrong place")
    supporters = re.search(r"nodes (.*) would vote", lines[runs][1])[1].split(", ")
    for supporter in set(supporters) - {leader}:
        vote = position(lines, f"^pre-vote: node {supporter} would vote for node {leader} in term {term}$")
        expect(asks < vote < runs, f"the pre-vote of node {supporter} stands in a wrong place")


def same_index_on_all(steps, server):
    death = re.compile(rf"server {server} is dead: no report for \d+ ms \(log index (\d+)\)")
    indexes = [death.fullmatch(text) for _, text in log_lines(steps[-1])]
    expect(all(indexes), "another line is among them")
    expect(len(indexes) == 5, f"{len(indexes)} nodes say so, not five")
    expect(len({match[1] for match in indexes}) == 1, "they name different indexes")


def is_in_state(steps, server, *state):
    state = " ".join(state)
    found = {row["id"]: row["state"] for row in map(SERVER_ROW.match, steps[-1].output) if row}
    expect(found.get(server) == state, f"{server} is {found.get(server)}")


def recovered(steps, number):
    line = re.compile(r"recovered: node (\d) has the server table")
    said = [line.match(text) for _, text in log_lines(steps[-1])]
    expect(all(said), "another line is among them")
    nodes = {match[1] for match in said}
    expect(len(said) == len(nodes) == int(number), f"nodes {nodes} have recovered, in {len(said)} lines")


def answer_all(steps, number, status):
    expect(counts(steps[-1]) == {status: int(number)}, f"not {number} times {status}: {counts(steps[-1])}")


def log_begins_with_term_and_vote(steps):
    kinds = [re.match(r'[0-9a-f]{8} (?:\d+ )?\{"(\w+)"', line) for line in steps[-1].output]
    expect(all(kinds), "a line has no checksum and record")
    kinds = [match[1] for match in kinds]
    expect(kinds[:2] == ["header", "hard_state"] and "entry" in kinds, f"the records are {kinds}")
    first, second = steps[-1].output[kinds.index("entry"):][:2]
    expect('"index":1,"term":1,"command":{"founding"' in first, f"the first entry is not the founding: {first}")
    expect(re.search(r'"index":2,"term":\d+,"command":null', second), f"the second entry is not empty: {second}")


def one_waits(steps):
    seconds = [float(line.split()[0]) for line in steps[-1].output]
    expect(seconds[-1] >= 2, "no request waited for two seconds")
    expect(all(one < 1 for one in seconds[:-1]), "more than one request waited")


def sent_elsewhere(steps, server):
    said = " ".join(text for _, text in log_lines(steps[-1]))
    expect(f"waits at {server}, which has stalled" in said, f"no request waited at {server}")
    other = re.search(r"answered by (server-\d) .*another server had stalled", said)
    expect(other and other[1] != server, "no other server answered it")


def cluster_has_stopped(steps):
    expect(steps[-1].output == ["stopping (SIGINT)", "stopped"], "it says something else")


# ------------------------------------------------------------------------------------ on several machines

def all_is_well(steps):
    output = latest(steps, "rakit check")
    expect(output[-1:] == ["all is well"], f"rakit check ends with {output[-1:]}")


def says(steps, *words):
    expect(any(" ".join(words) in line for line in steps[-1].output), f"no line has: {' '.join(words)}")


def not_in_table(steps, server):
    found = [row["id"] for row in map(SERVER_ROW.match, steps[-1].output) if row]
    expect(found and server not in found, f"the table has {found}")


def term_as_before(steps):
    found, before = table(steps)
    terms = [{row["term"] for row in rows_of} for rows_of in (found, before)]
    expect(len(terms[0]) == 1 and terms[0] == terms[1], f"the terms were {terms[1]} and are {terms[0]}")


def keys_are(steps, keys, logs):
    output = latest(steps, "keys ")
    said = {re.sub(r"^[^:]*: ", "", line) for line in output}
    expect(len(output) == int(logs), f"{len(output)} logs say something of the secret, not {logs}")
    expect(len(said) == 1, f"they do not say the same: {said}")
    expect(len(re.findall(r"\b[0-9a-f]{8}\b", said.pop())) == int(keys), f"not {keys} keys")


def old_key_is_first(steps):
    """The last two steps of the change name the same two keys, the other way round."""
    found = [step.output[0] for step in steps if step.command.startswith("keys ")]
    new, old = (re.findall(r"\b[0-9a-f]{8}\b", line) for line in (found[-1], found[-2]))
    expect(new == old[::-1], f"the keys were {old} and are {new}")


def as_before(steps):
    same = [step for step in steps if step.command == steps[-1].command]
    expect(len(same) > 1, "it was not typed before")
    expect(same[-1].output == same[-2].output, f"it was {same[-2].output} and is {same[-1].output}")


def none_refused(steps):
    output = latest(steps, "rakit_refusals_total")
    expect(output == ["0 by all nodes"], f"refused: {output}")


def answers_only(steps, prime):
    answers = counts(steps[-1])
    expect(set(answers) == {prime}, f"other answers, too: {answers}")


def no_answer_lacks(steps):
    answers = counts_of(latest(steps, "client stops"))
    expect(answers and set(answers) <= {"7919", "7919-by-another"}, f"other answers, too: {answers}")


def one_number(steps):
    output = steps[-1].output[-2:]
    expect(len(output) == 2 and len(set(output)) == 1, f"two programs: {output}")


def member_rows(steps):
    found = [match.groupdict() for match in map(MEMBER.match, latest(steps, "rakit members list")) if match]
    return {row["id"]: row for row in found}


def members_are(steps, *ids):
    found = list(member_rows(steps))
    expect(found == list(ids), f"the members are {found}")


def member_is(steps, member, kind, address):
    row = member_rows(steps)[member]
    expect((row["kind"], row["cluster"]) == (kind, address), f"node {member} is {row}")


NAMED = {
    function.__name__: function
    for function in (
        cluster_is_ready, same_prime, same_prime_everywhere, is_busy, go_elsewhere, one_leads, another_leads,
        do_not_answer, nobody_leads_and_the_term_stands, all_follow_one, stale_primes, three_roles_in_order, election_in_order,
        same_index_on_all, is_in_state, recovered, answer_all, log_begins_with_term_and_vote, one_waits,
        sent_elsewhere, cluster_has_stopped, cut_off_leader_gave_up,
        all_is_well, says, not_in_table, term_as_before, keys_are, old_key_is_first, as_before, none_refused,
        answers_only, no_answer_lacks, one_number, members_are, member_is,
    )
}
