// Every sentence of the page in Indonesian, with the keys of english.js. The field's own words (leader, follower, term,
// log, heartbeat, commit) stay as they are, as in the paper and the log files.

const list = (items) => items.join(", ");
const percent = (value) => (value === null ? "tidak diketahui" : `${value.toFixed(1)} %`);

const lasting = (ms) =>
  ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;

// What nodes and the control room say, by form. What is not here is shown as they say it.
const FORMS = [
  [/^it heard no leader for a whole election timeout$/, () => "tidak mendengar leader selama satu election timeout penuh"],
  [/^it did not win its pre-vote in time$/, () => "tidak memenangkan pre-vote pada waktunya"],
  [/^it did not win its election in time$/, () => "tidak memenangkan pemilihan pada waktunya"],
  [/^the process of node (\d+), the leader, seems to have died$/, (node) => `proses node ${node}, leader itu, tampaknya mati`],
  [/^node (\d+) asks for votes in term (\d+)$/, (node, term) => `node ${node} meminta suara di term ${term}`],
  [/^node (\d+) leads term (\d+)$/, (node, term) => `node ${node} memimpin term ${term}`],
  [/^node (\d+) replied with the newer term (\d+)$/, (node, term) => `node ${node} menjawab dengan term ${term} yang lebih baru`],
  [/^node (\d+), the leader, hands over to it$/, (node) => `node ${node}, leader itu, menyerahkan kepemimpinan`],
  [/^as leader it had no answer from a majority for (\d+) ms$/, (ms) => `sebagai leader ia tidak dijawab mayoritas selama ${ms} ms`],
  [/^connection refused$/, () => "koneksi ditolak"],
  [/^connection closed$/, () => "koneksi ditutup"],
  [/^no answer$/, () => "tidak ada jawaban"],
  [/^(\S+) is dead$/, (name) => `${name} mati`],
  [/^(\S+) runs \(pid (\d+)\)$/, (name, pid) => `${name} berjalan (pid ${pid})`],
  [/^(\S+) \(pid (\d+)\) is paused$/, (name, pid) => `${name} (pid ${pid}) dijeda`],
  [/^(\S+) \(pid (\d+)\) goes on$/, (name, pid) => `${name} (pid ${pid}) berjalan lagi`],
  [/^(\S+) is kept busy with (\d+) % of its processors$/, (name, part) => `${name} dibuat sibuk dengan ${part} % prosesornya`],
  [/^(\S+) is not kept busy any more$/, (name) => `${name} tidak dibuat sibuk lagi`],
  [/^no more requests are sent$/, () => "tidak ada permintaan yang dikirim lagi"],
  [/^(\d+) requests per second ask for \/(\d+), each node in turn$/,
    (rate, n) => `${rate} permintaan per detik meminta /${n}, ke setiap node bergiliran`],
  [/^the cable (between|from) node (\d+) (?:and|to) (all other nodes|node \d+) is (cut|healed)$/,
    (way, node, far, state) =>
      `kabel ${way === "from" ? "dari" : "antara"} node ${node} ${way === "from" ? "ke" : "dan"} ` +
      `${far === "all other nodes" ? "semua node lain" : far} ${state === "cut" ? "diputus" : "disambung"}`],
  [/^no heartbeat and no entry arrives at node (\d+)$/, (node) => `heartbeat dan entri tidak sampai di node ${node}`],
  [/^no vote arrives at node (\d+)$/, (node) => `suara tidak sampai di node ${node}`],
  [/^the next election of node (\d+) fails$/, (node) => `pemilihan berikutnya dari node ${node} gagal`],
  [/^the token of control\.json is missing or is another$/, () => "token dari control.json tidak ada atau salah"],
];

const said = (text) => {
  for (const [form, words] of FORMS) {
    const match = form.exec(text);
    if (match) return words(...match.slice(1));
  }
  return text;
};

export const INDONESIAN = {
  titles: {
    ring: "Node-node",
    servers: "Server-server",
    logs: "Log",
    requests: "Permintaan terakhir",
    story: "Apa yang terjadi",
    control: "Kendalikan klaster ini",
    play: "Arti langkah ini",
  },
  legends: {
    ring:
      "Warna: term. Lingkaran di sekeliling node: waktu sampai ia memulai pemilihan. Titik: heartbeat yang dijawab " +
      "(contoh) dan suara.",
    servers: "Semua node sepakat tentang beban dan hidup-matinya. Berjalan: node:permintaan, menurut hitungan tiap node.",
    logs: "Satu sel adalah satu entri; warnanya: term-nya. Semua di kiri garis tebal sudah committed: dimiliki mayoritas.",
    requests: "Di antara beban yang hampir sama, server diundi. Node yang sibuk menampilkan contoh saja.",
    play: "Tombol: → lanjut, ← kembali, R putar sendiri, Esc klaster yang hidup.",
    story: "Buka sebuah kalimat untuk membaca baris log yang mengatakannya.",
  },

  title: (cluster, headline) => `${headline} – Rakit ${cluster}`,
  show: "Tampilkan",
  live: "klaster ini, langsung",
  language: "Bahasa",
  said,
  waiting: "Menunggu jawaban pertama …",

  // The headline.
  leads: (node, term) => `node ${node} memimpin term ${term}`,
  electedBy: (nodes) => `, dipilih oleh ${list(nodes)}`,
  mayFail: (count, of) => (count > 0 ? ` · ${count} dari ${of} masih boleh gagal` : " · tidak ada node lain yang boleh gagal"),
  noMajority: (count, of) => `TIDAK ADA MAYORITAS: ${count} dari ${of}.`,
  noLeader: "TIDAK ADA LEADER.",
  election: (node, term, votes, needed) =>
    `PEMILIHAN: node ${node} meminta suara di term ${term} dan punya ${votes} dari ${needed} yang diperlukan.`,
  servedFrom: (ms) => ` Bilangan prima dilayani dari state berumur ${lasting(ms)}`,
  nobodyAnswers: "Tidak ada node yang menjawab.",

  // Whose view.
  viewOf: (node) => `Seperti yang dilihat node ${node}. Tentang node lain ia hanya tahu yang mereka katakan kepadanya.`,
  viewsOf: (count, of, oldest) =>
    `Ruang kendali: pandangan ${count} dari ${of} node, yang tertua berumur ${lasting(oldest)}.`,
  lost: (host, ms) => `${host} tidak menjawab halaman ini. Yang Anda lihat berumur ${lasting(ms)}.`,

  // Warnings.
  silentNode: (node, why) => `node ${node} tidak menjawab: ${said(why)}`,
  otherLeader: (node, leader, term) => `node ${node} mengikuti node ${leader} di term ${term}`,
  noLeaderAt: (node, term) => `node ${node} tidak tahu leader mana pun (term ${term})`,
  alsoLeads: (node, term) => `node ${node} berkata bahwa ia memimpin term ${term}, yang sudah lewat`,
  refuses: (node, other, reason) => `node ${node} tidak bekerja dengan node ${other}: ${said(reason)}`,
  joining: (node) => `node ${node} mulai tanpa ingatan: ia tidak punya suara sampai leader mengisi log-nya`,
  twoDaemons: (server, worker) => `dua daemon mengaku sebagai ${server}; yang memakai worker ${worker} ditolak`,
  deaf: (node, others) => `terputus: tidak ada yang sampai di node ${node} dari node ${list(others)}`,
  loses: {
    heartbeats: (node) => `atas perintah: heartbeat tidak sampai di node ${node}`,
    votes: (node) => `atas perintah: suara tidak sampai di node ${node}`,
    "next-vote": (node) => `atas perintah: pemilihan berikutnya dari node ${node} gagal`,
  },
  otherState: (one, other, index) => `node ${one} dan ${other} punya tabel yang berbeda di index log ${index}`,
  loopBusy: (node) => `node ${node}: loop Raft-nya tidak menjawab; mungkin disk-nya macet`,

  // The ring.
  role: {
    leader: "leader", candidate: "kandidat", "pre-candidate": "pra-kandidat", follower: "follower",
    dead: "mati", paused: "dijeda", silent: "tidak menjawab", unknown: "tidak diketahui",
  },
  term: (term) => `term ${term}`,
  votes: (nodes) => `suara: ${list(nodes)}`,
  heard: (ms) => `menjawab ${lasting(ms)} lalu`,
  spoken: (node, role, term) => `Node ${node}: ${role}${term === null ? "" : `, term ${term}`}.`,

  // The logs.
  node: (node) => `node ${node}`,
  indexes: (last, commit) => `${last} entri, ${commit} committed`,
  matched: (last) => `sampai ${last}, sepengetahuan leader`,
  logUnknown: "tidak diketahui di sini",
  logSpoken: (node, last, commit) => `Log node ${node}: ${last} entri, committed sampai ${commit}`,
  inSnapshot: (index) => `, snapshot sampai ${index}`,

  // A recording.
  play: {
    headline: (title, step, of) => `${title} · langkah ${step} dari ${of}`,
    kind: (where) => `Rekaman inti Raft dari Rakit sendiri, bukan klaster yang hidup · ${where}`,
    paper: (section) => `makalah Raft ${section.replace("Figure", "Gambar")}`,
    thesis: (section) => `tesis Raft ${section}`,
    back: "◂ kembali", next: "lanjut ▸", run: "putar", hold: "berhenti",
    lines: (count) => `Yang dikatakan inti Raft: ${count} baris`,
    voted: (node) => `memilih ${node}`,
    cut: (cables) => `Kabel terputus: ${list(cables)}`,
    missing: (name) => `Tidak ada rekaman "${name}".`,
  },

  // The servers.
  serverHeads: ["server", "CPU", "keadaan", "berjalan", "dipilih"],
  noServers: "belum ada server yang melapor",
  moreServers: (count) => `dan ${count} lagi`,
  alive: "● hidup",
  silent: (ms, limit) => `◐ diam selama ${lasting(ms)}; mati pada ${lasting(limit)}`,
  undecided: (ms) => `◐ tidak ada laporan yang disepakati selama ${lasting(ms)}: itu perlu leader`,
  dead: (index) => `✕ mati menurut index log ${index}`,
  noWorker: "○ tanpa worker",
  drained: "○ dikosongkan atas perintah",
  stalled: (nodes) => `⏸ macet bagi node ${list(nodes)}`,
  avoided: (nodes) => `▽ dihindari oleh node ${list(nodes)}`,
  cpu: percent,
  cpuSpoken: (percents) => `CPU belakangan ini: ${list(percents.map(percent))}`,
  inFlight: (counts) => (counts.length ? counts.map(([node, count]) => `${node}:${count}`).join(" ") : "–"),
  chosen: (count, share) => `${count} (${share.toFixed(0)}\u00a0%)`,

  // The requests.
  requestHeads: ["pukul", "N", "node", "server", "alasan", "ms", "percobaan"],
  noRequests: "belum ada: mintalah bilangan prima ke node mana saja, misalnya /1000",
  why: (loads, chosen) => {
    if (!loads.length) return "–";
    if (loads.length === 1) return `satu-satunya yang boleh dipilih (${percent(loads[0][1])})`;
    const one = ([server, load]) => `${server === chosen ? "▸" : ""}${server} ${percent(load)}`;
    return loads.map(one).join(" · ");
  },
  noAnswer: (status) => `tidak ada (${status})`,
  hedged: ", karena yang pertama macet",

  // The story.
  story: {
    leads: (node, term, ms) =>
      `Node ${node} memimpin term ${term}${ms === null ? "" : `, terpilih dalam ${lasting(ms)}`}.`,
    lost: (leader, term, reason) => `Leader, node ${leader} dari term ${term}, hilang: ${said(reason)}.`,
    trying: (nodes) => `Node ${list(nodes)} meminta suara; belum ada yang terpilih.`,
    truncated: (node, index) => `Node ${node} membuang yang tidak pernah committed, mulai dari index log ${index}.`,
    snapshot: (node, index) => `Node ${node} mendapat snapshot leader sampai index log ${index}.`,
    overdue: (server) => `Leader mengusulkan bahwa ${server} mati.`,
    "server-new": (server, index) => `${server} baru (index log ${index}).`,
    "server-dead": (server, index) => `${server} mati: begitu kesepakatan node-node di index log ${index}.`,
    "server-back": (server, index) => `${server} hidup lagi (index log ${index}).`,
    "worker-up": (server, index) => `${server} mendapat permintaan lagi: worker-nya siap (index log ${index}).`,
    "server-drained": (server, index) => `${server} dikosongkan atas perintah: tidak mendapat permintaan baru (index log ${index}).`,
    "server-undrained": (server, index) => `${server} dibuka lagi atas perintah: boleh mendapat permintaan (index log ${index}).`,
    "server-forgotten": (server, index) => `${server} dilupakan atas perintah (index log ${index}).`,
    "worker-down": (server, index) => `${server} tidak mendapat permintaan: worker-nya tidak siap (index log ${index}).`,
  },

  // The control room.
  noToken: "Untuk mengendalikan, buka alamat dengan token yang dicetak oleh `rakit up`.",
  process: { running: "berjalan", paused: "dijeda", dead: "mati" },
  orders: { kill: "bunuh", pause: "jeda", resume: "lanjutkan", start: "jalankan", restart: "mulai ulang" },
  orderSpoken: (order, name) => `${order} ${name}`,
  cables: "Kabel", between: "node", and: "dan", allOthers: "semua lainnya", oneWay: "hanya dari yang pertama",
  cut: "putus", heal: "sambung", healAll: "sambung semua",
  messages: "Pesan", to: "ke node", dropHeartbeats: "buang heartbeat", dropVotes: "buang suara",
  failVote: "gagalkan pemilihan berikutnya", letThrough: "loloskan semua",
  requests: "Permintaan", perSecond: "per detik, untuk N", send: "kirim", stop: "hentikan",
  load: "Beban", onServer: "server", ofCores: "% prosesornya", put: "beri",
  failed: (why) => `✕ ${said(why)}`,
  done: (what) => `✓ ${said(what)}`,
};
