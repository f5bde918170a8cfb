//! The steps of the demonstration, in their order. Each begins when all nodes agree, and leaves the cluster whole.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Words;
use super::stage::{Played, Prime, Stage};
use crate::operator::layout::Part;
use crate::operator::order::Order;

/// A small N: a worker has it in a table.
const SMALL_N: u64 = 1_000;
/// Work for about a second.
const BIG_N: u64 = 10_000_000_000;
/// Work for several seconds, so that something can happen in the middle.
const HUGE_N: u64 = 100_000_000_000;
/// Between two of six requests "at once": the nodes tell each other what they have sent.
const MOMENT: Duration = Duration::from_millis(50);

/// One step.
pub struct Step {
    /// What will happen.
    pub title: Words,
    /// Why, with the place in the paper (Ongaro, Ousterhout 2014) or the thesis (Ongaro 2014).
    pub why: Words,
    /// Does it, measures it, shows it, checks it.
    pub play: fn(&mut Stage) -> Played,
}

/// All steps.
pub const STEPS: [Step; 11] = [
    Step {
        title: Words { en: "Five nodes agree", id: "Lima node sepakat" },
        why: Words {
            en: "Every node has its own copy of the table of servers. Raft makes the copies equal:\nthe leader sends its log to all, and each applies the same entries in the same\norder (paper, section 5.3).",
            id: "Setiap node punya salinan tabel server. Raft membuat semua salinan sama:\nleader mengirim log-nya ke semua, dan tiap node menerapkan entri yang sama\ndalam urutan yang sama (makalah, bagian 5.3).",
        },
        play: agreement,
    },
    Step {
        title: Words {
            en: "A busy server gets no requests",
            id: "Server yang sibuk tidak mendapat permintaan",
        },
        why: Words {
            en: "Each server reports its load from /proc/stat every second. A node chooses from the\nagreed loads and never asks a server first.",
            id: "Setiap server melaporkan bebannya dari /proc/stat tiap detik. Node memilih dari\nbeban yang disepakati dan tidak pernah bertanya dulu ke server.",
        },
        play: routing_by_load,
    },
    Step {
        title: Words {
            en: "Six big requests at once are spread",
            id: "Enam permintaan besar sekaligus dibagi rata",
        },
        why: Words {
            en: "Within a second no report can show what was just sent. So the nodes count their own\nrequests in flight, and tell each other.",
            id: "Dalam satu detik belum ada laporan yang menunjukkan permintaan yang baru dikirim.\nMaka node menghitung permintaan yang sedang berjalan dan saling memberi tahu.",
        },
        play: six_at_once,
    },
    Step {
        title: Words { en: "The leader is killed", id: "Leader dimatikan" },
        why: Words {
            en: "Whoever gets the votes of a majority, three of five, leads the next term. A node votes\nonce per term, and only for a log that is at least as complete as its own (5.2, 5.4.1).",
            id: "Siapa yang mendapat suara mayoritas, tiga dari lima, memimpin term berikutnya. Node\nmemilih sekali per term, dan hanya untuk log yang minimal selengkap log-nya (5.2, 5.4.1).",
        },
        play: leader_killed,
    },
    Step {
        title: Words { en: "Two are killed: three are enough", id: "Dua dimatikan: tiga masih cukup" },
        why: Words {
            en: "The majority of five stays three, whoever is dead. Three nodes still commit.",
            id: "Mayoritas dari lima tetap tiga, siapa pun yang mati. Tiga node masih bisa commit.",
        },
        play: two_killed,
    },
    Step {
        title: Words { en: "Three are killed: no majority", id: "Tiga dimatikan: tidak ada mayoritas" },
        why: Words {
            en: "Two nodes can't elect anybody, so nothing new is agreed on. But a prime needs no\nagreement: it is served from the last agreed state, marked with its age.",
            id: "Dua node tidak bisa memilih siapa pun, jadi tidak ada kesepakatan baru. Tetapi bilangan\nprima tidak butuh kesepakatan: dilayani dari keadaan terakhir, dengan umurnya.",
        },
        play: majority_lost,
    },
    Step {
        title: Words { en: "A silent server is declared dead", id: "Server yang diam dinyatakan mati" },
        why: Words {
            en: "The leader has heard nothing of the server for server_timeout_ms and proposes a\nverdict. It is an entry of the log like any other: all nodes decide by the same index.",
            id: "Leader tidak mendengar server itu selama server_timeout_ms lalu mengusulkan putusan.\nItu entri log seperti yang lain: semua node memutuskan pada indeks yang sama.",
        },
        play: server_silent,
    },
    Step {
        title: Words { en: "A worker is killed halfway", id: "Worker dimatikan di tengah jalan" },
        why: Words {
            en: "The connection to the worker breaks before an answer came. The node tries the next\nbest server at once; the client only waits longer.",
            id: "Koneksi ke worker putus sebelum ada jawaban. Node langsung mencoba server terbaik\nberikutnya; klien hanya menunggu lebih lama.",
        },
        play: worker_killed,
    },
    Step {
        title: Words { en: "A worker hangs", id: "Worker macet" },
        why: Words {
            en: "A paused worker closes nothing and looks idle. A server that owes an answer although\nit does nothing is stalled: what waits there is sent to another server, too.",
            id: "Worker yang dijeda tidak menutup apa pun dan terlihat menganggur. Server yang berutang\njawaban padahal tidak bekerja disebut macet: permintaannya dikirim juga ke server lain.",
        },
        play: worker_stalled,
    },
    Step {
        title: Words { en: "The network is cut in two", id: "Jaringan terbelah dua" },
        why: Words {
            en: "The old leader is on the side of two. It takes a report and can't commit it; the other\nside elects a leader of a newer term, whose log wins (5.3, 5.4). What was never\nacknowledged may vanish, and does.",
            id: "Leader lama ada di sisi yang berisi dua node. Ia menerima laporan tetapi tidak bisa\ncommit; sisi lain memilih leader dengan term lebih baru, dan log-nya yang menang (5.3,\n5.4). Yang tidak pernah diakui boleh hilang, dan memang hilang.",
        },
        play: partition,
    },
    Step {
        title: Words { en: "All is well again", id: "Semua pulih" },
        why: Words {
            en: "After all this, the five tables are equal to the last byte.",
            id: "Setelah semua itu, kelima tabel sama sampai byte terakhir.",
        },
        play: agreement,
    },
];

fn agreement(stage: &mut Stage) -> Played {
    let (leader, term) = stage.agreed()?;
    let digest = stage.statuses().first().map(|(_, one)| one.state_digest.clone()).unwrap_or_default();
    stage.claim(
        true,
        &format!("node {leader} leads term {term}; five nodes have the table {digest}"),
        &format!("node {leader} memimpin term {term}; kelima node punya tabel {digest}"),
    )
}

/// How many of these answers each server gave; fails if one is no prime.
fn by_server(answers: Vec<Result<Prime, String>>) -> Result<BTreeMap<String, usize>, String> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        let answer = answer?;
        let server = answer.server.filter(|_| answer.status == 200);
        *counts.entry(server.ok_or_else(|| format!("HTTP {}", answer.status))?).or_default() += 1;
    }
    Ok(counts)
}

fn shown(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(server, count)| format!("{server}: {count}")).collect::<Vec<_>>().join(", ")
}

fn routing_by_load(stage: &mut Stage) -> Played {
    stage.order(&Order::Load { server: 1, percent: 60 })?;
    let busy = Words { en: "the load was not agreed on", id: "beban belum disepakati" };
    stage.server_becomes("server-1", busy, |server| server.cpu > 20.0)?;
    let ids: Vec<u16> = stage.ids().into_iter().cycle().take(10).collect();
    let counts = by_server(ids.iter().map(|id| stage.prime(*id, SMALL_N)).collect())?;
    stage.say(
        &format!("ten requests: {}", shown(&counts)),
        &format!("sepuluh permintaan: {}", shown(&counts)),
    );
    let lines = stage.lines(&["answered by"], |lines| lines.len() >= 10);
    stage.show(&lines[..lines.len().min(2)]);
    stage.order(&Order::Load { server: 1, percent: 0 })?;
    let idle = Words { en: "the load did not end", id: "beban belum berakhir" };
    stage.server_becomes("server-1", idle, |server| server.cpu < 10.0)?;
    stage.claim(
        !counts.contains_key("server-1"),
        "none went to server-1 while it was busy",
        "tidak satu pun dikirim ke server-1 selama sibuk",
    )
}

fn six_at_once(stage: &mut Stage) -> Played {
    let ids: Vec<u16> = stage.ids().into_iter().cycle().take(6).collect();
    let counts = by_server(stage.primes_at_once(&ids, BIG_N, MOMENT))?;
    stage.say(&format!("six requests: {}", shown(&counts)), &format!("enam permintaan: {}", shown(&counts)));
    let lines = stage.lines(&["answered by"], |lines| lines.len() >= 6);
    stage.show(&lines);
    stage.claim(
        counts.len() == 3 && counts.values().all(|count| *count <= 3),
        "every server got its share",
        "setiap server mendapat bagiannya",
    )
}

fn leader_killed(stage: &mut Stage) -> Played {
    let (leader, term) = stage.agreed()?;
    stage.kill(Part::Node(leader))?;
    let (next, next_term, took) = stage.next_leader(term)?;
    let ms = took.as_millis();
    stage.say(
        &format!("seen from here, node {next} leads term {next_term} {ms} ms later"),
        &format!("terlihat dari sini, node {next} memimpin term {next_term} {ms} ms kemudian"),
    );
    let won = format!("node {next} leads term {next_term}, elected by");
    let elected = |lines: &[String]| lines.iter().any(|line| line.contains(&won));
    let lines = stage.lines(&["role: ", " vote: "], elected);
    stage.show(&lines);
    let survivor = stage.ids().into_iter().find(|id| *id != leader).unwrap_or(next);
    let answer = stage.prime(survivor, SMALL_N)?;
    stage.start(Part::Node(leader))?;
    stage.claim(
        elected(&lines) && answer.status == 200,
        "a majority elected it, and primes are served",
        "mayoritas memilihnya, dan bilangan prima tetap dilayani",
    )
}

fn two_killed(stage: &mut Stage) -> Played {
    let (leader, term) = stage.agreed()?;
    let follower = stage.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
    stage.kill(Part::Node(follower))?;
    stage.kill(Part::Node(leader))?;
    let (next, next_term, _) = stage.next_leader(term)?;
    let commit = |stage: &Stage| stage.statuses().iter().map(|(_, one)| one.commit_index).max().unwrap_or(0);
    let before = commit(stage);
    let what = Words { en: "nothing was committed", id: "tidak ada yang di-commit" };
    let after = stage.until(what, |stage| Some(commit(stage)).filter(|index| *index > before))?;
    stage.say(
        &format!("node {next} leads term {next_term}; committed up to {before}, then up to {after}"),
        &format!("node {next} memimpin term {next_term}; commit sampai {before}, lalu sampai {after}"),
    );
    let lines = stage.lines(&["leads term"], |lines| !lines.is_empty());
    stage.show(&lines);
    stage.start(Part::Node(follower))?;
    stage.start(Part::Node(leader))?;
    stage.claim(true, "three of five go on agreeing", "tiga dari lima tetap bisa sepakat")
}

fn majority_lost(stage: &mut Stage) -> Played {
    let (leader, _) = stage.agreed()?;
    let mut order = stage.ids();
    order.retain(|id| *id != leader);
    order.push(leader);
    let (left, killed) = order.split_at(2);
    for id in killed {
        stage.kill(Part::Node(*id))?;
    }
    let what = Words { en: "a leader is still followed", id: "masih ada leader yang diikuti" };
    stage.until(what, |stage| {
        let statuses = stage.statuses();
        (statuses.len() == 2 && statuses.iter().all(|(_, one)| one.leader.is_none())).then_some(())
    })?;
    let what = Words { en: "the answer was not marked as old", id: "jawaban tidak ditandai umurnya" };
    let age = stage.until(what, |stage| {
        stage.prime(left[0], SMALL_N).ok().filter(|prime| prime.status == 200)?.stale_ms
    })?;
    let report = stage.report(left[0], &demo_report(1))?;
    stage.say(
        &format!("a prime from node {}: 200, X-Rakit-Stale-Ms: {age}; a report there: {report}", left[0]),
        &format!(
            "bilangan prima dari node {}: 200, X-Rakit-Stale-Ms: {age}; laporan ke sana: {report}",
            left[0]
        ),
    );
    let lines = stage.lines(&["leader lost", "seems to have died"], |lines| !lines.is_empty());
    stage.show(&lines);
    for id in killed {
        stage.start(Part::Node(*id))?;
    }
    stage.claim(
        report == 503,
        "primes are served, and nothing new is acknowledged",
        "bilangan prima dilayani, dan tidak ada hal baru yang diakui",
    )
}

fn server_silent(stage: &mut Stage) -> Played {
    stage.order(&Order::Pause { name: Part::Daemon(3) })?;
    let dead = Words { en: "no verdict came", id: "tidak ada putusan" };
    stage.server_becomes("server-3", dead, |server| !server.alive)?;
    // Every node logs the verdict with the index of its entry.
    let nodes = stage.ids().len();
    let lines = stage.lines(&["[WARN] node: server server-3 is dead"], |lines| lines.len() >= nodes);
    stage.show(&lines);
    let indexes: Vec<&str> = lines.iter().filter_map(|line| line.split("(log index ").nth(1)).collect();
    let same = indexes.len() == nodes && indexes.windows(2).all(|pair| pair[0] == pair[1]);
    stage.order(&Order::Resume { name: Part::Daemon(3) })?;
    let alive = Words { en: "the server did not come back", id: "server tidak kembali" };
    stage.server_becomes("server-3", alive, |server| server.alive)?;
    let back = stage.lines(&["server-3 is alive again"], |lines| !lines.is_empty());
    stage.show(&back[..back.len().min(1)]);
    stage.claim(
        same,
        "one log index decided it on all five nodes, and the next report took it back",
        "satu indeks log memutuskannya di kelima node, dan laporan berikutnya membatalkannya",
    )
}

fn worker_killed(stage: &mut Stage) -> Played {
    let waits = stage.prime_in_background(1, HUGE_N);
    let what = Words { en: "the request reached no worker", id: "permintaan tidak sampai ke worker" };
    let server = stage.until(what, |stage| {
        let statuses = stage.statuses();
        let node = statuses.iter().find(|(id, _)| *id == 1)?;
        node.1.servers.iter().find(|server| server.in_flight > 0).map(|server| server.id.clone())
    })?;
    let number = server.trim_start_matches("server-").parse().map_err(|_| format!("{server}?"))?;
    stage.kill(Part::Worker(number))?;
    let answer = waits.join().map_err(|_| "the thread failed".to_string())??;
    let by = answer.server.unwrap_or_default();
    let lines = stage.lines(&["answered by", "trying the next best"], |lines| !lines.is_empty());
    stage.show(&lines);
    stage.start(Part::Worker(number))?;
    let up = Words { en: "the worker did not come back", id: "worker tidak kembali" };
    stage.server_becomes(&server, up, |found| found.worker_up)?;
    stage.claim(
        answer.status == 200 && by != server,
        &format!("{server} was killed while it computed, and {by} answered"),
        &format!("{server} dimatikan saat menghitung, dan {by} yang menjawab"),
    )
}

fn worker_stalled(stage: &mut Stage) -> Played {
    stage.order(&Order::Pause { name: Part::Worker(2) })?;
    let mut slow = Duration::ZERO;
    let what = Words { en: "no request waited there", id: "tidak ada permintaan yang menunggu di sana" };
    let ids = stage.ids();
    let mut turn = ids.iter().cycle();
    // Whoever is sent there first waits; then the nodes know.
    let stalled = stage.until(what, |stage| {
        let began = Instant::now();
        let answer = stage.prime(*turn.next()?, SMALL_N).ok()?;
        slow = slow.max(began.elapsed());
        let statuses = stage.statuses();
        let seen = statuses.iter().any(|(_, one)| one.servers.iter().any(|found| found.stalled));
        (answer.status == 200 && seen).then_some(())
    });
    let lines = stage.lines(&["stall"], |lines| !lines.is_empty());
    stage.show(&lines);
    stage.order(&Order::Resume { name: Part::Worker(2) })?;
    stalled?;
    stage.claim(
        true,
        &format!(
            "every request was answered; the slowest, which waited there, after {} ms",
            slow.as_millis()
        ),
        &format!(
            "semua permintaan dijawab; yang paling lambat, yang menunggu di sana, setelah {} ms",
            slow.as_millis()
        ),
    )
}

/// A report of a server that exists only in this demonstration.
fn demo_report(sequence: u64) -> String {
    format!(
        r#"{{"server":"demo","worker":"127.0.0.1:13337","cpu":0.0,"cores":1,"epoch":1,"sequence":{sequence},"worker_up":false,"forward":false}}"#
    )
}

fn partition(stage: &mut Stage) -> Played {
    let (leader, term) = stage.agreed()?;
    let mut others = stage.ids();
    others.retain(|id| *id != leader);
    let (with_it, majority) = others.split_at(1);
    let cables: Vec<(u16, u16)> = [leader, with_it[0]]
        .into_iter()
        .flat_map(|one| majority.iter().map(move |other| (one, *other)))
        .collect();
    let began = Instant::now();
    for (one, other) in &cables {
        stage.cable(*one, *other, true)?;
    }
    let report = stage.report(leader, &demo_report(1));
    let (next, next_term, _) = stage.next_leader(term)?;
    let took = began.elapsed();
    stage.say(
        &format!(
            "the report at node {leader}: {}; node {next} leads term {next_term}, {} ms after the cut",
            report.as_ref().map_or_else(Clone::clone, u16::to_string),
            took.as_millis()
        ),
        &format!(
            "laporan ke node {leader}: {}; node {next} memimpin term {next_term}, {} ms setelah terputus",
            report.as_ref().map_or_else(Clone::clone, u16::to_string),
            took.as_millis()
        ),
    );
    for (one, other) in &cables {
        stage.cable(*one, *other, false)?;
    }
    stage.agreed()?;
    let lines = stage.lines(&["elected by", "as leader it had no answer", "uncommitted entries"], |lines| {
        lines.len() >= 3
    });
    stage.show(&lines);
    let gone = stage.statuses().iter().all(|(_, one)| one.servers.iter().all(|server| server.id != "demo"));
    stage.claim(
        report != Ok(200) && gone,
        "the report was never acknowledged, and is in no table",
        "laporan itu tidak pernah diakui, dan tidak ada di tabel mana pun",
    )
}
