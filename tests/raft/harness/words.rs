//! Messages in short notation, for transcripts: `AppendEntries term=2 prev=3/1 entries=4/2:x commit=3`. A position in the
//! log is written index/term, as in the paper's figures, which put the term into the box and the index above it.

use rakit::raft::{
    AppendResult, Entry, Life, Members, RequestVote, Resolution, RpcReply, RpcRequest, VoteReply,
};

use super::Payload;

/// The message as one line.
pub fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Request { request, .. } => self::request(request),
        Payload::Reply { reply, .. } => self::reply(reply),
        Payload::Lost { .. } => "(no reply will come)".into(),
    }
}

/// A request.
pub fn request(request: &RpcRequest) -> String {
    match request {
        RpcRequest::PreVote(arguments) => format!("PreVote {}", vote(arguments)),
        RpcRequest::RequestVote(arguments) => format!("RequestVote {}", vote(arguments)),
        RpcRequest::AppendEntries(arguments) => {
            let entries: Vec<String> = arguments.entries.iter().map(entry).collect();
            let entries =
                if entries.is_empty() { String::new() } else { format!(" entries={}", entries.join(",")) };
            format!(
                "AppendEntries term={} prev={}/{}{entries} commit={}{}",
                arguments.term,
                arguments.prev_log_index,
                arguments.prev_log_term,
                arguments.leader_commit,
                arguments
                    .admit
                    .map_or(String::new(), |admit| format!(" admit={}/{}", admit.incarnation, admit.barrier))
            )
        }
        RpcRequest::InstallSnapshot(arguments) => format!(
            "InstallSnapshot term={} last={}/{} offset={} bytes={}{}",
            arguments.term,
            arguments.last_included_index,
            arguments.last_included_term,
            arguments.offset,
            arguments.data.len(),
            if arguments.done { " done" } else { "" }
        ),
        RpcRequest::TimeoutNow(arguments) => format!("TimeoutNow term={}", arguments.term),
        RpcRequest::CompareState(arguments) => {
            format!("CompareState term={} index={}", arguments.term, arguments.index)
        }
        RpcRequest::Founding(question) => format!("Founding life={}", question.incarnation),
    }
}

/// A reply.
pub fn reply(reply: &RpcReply) -> String {
    match reply {
        RpcReply::PreVote(reply) => format!("PreVote reply {}", vote_reply(reply)),
        RpcReply::RequestVote(reply) => format!("RequestVote reply {}", vote_reply(reply)),
        RpcReply::AppendEntries(reply) => {
            let result = match reply.result {
                AppendResult::Success { match_index } => format!("success match={match_index}"),
                AppendResult::StaleTerm => "stale".into(),
                AppendResult::Conflict { prev_log_index, conflict_term: None, conflict_index } => {
                    format!("conflict at={prev_log_index} (too short) hint={conflict_index}")
                }
                AppendResult::Conflict { prev_log_index, conflict_term: Some(term), conflict_index } => {
                    format!("conflict at={prev_log_index} hint={conflict_index}/{term}")
                }
            };
            format!("AppendEntries reply term={} {result}{}", reply.term, life(reply.life))
        }
        RpcReply::InstallSnapshot(reply) => {
            let next =
                if reply.installed { "installed".into() } else { format!("next={}", reply.next_offset) };
            let (term, last) = (reply.term, reply.last_included_index);
            format!("InstallSnapshot reply term={term} last={last} {next}{}", life(reply.life))
        }
        RpcReply::TimeoutNow(reply) => {
            let accepted = if reply.accepted { "accepted" } else { "refused" };
            format!("TimeoutNow reply term={} {accepted}", reply.term)
        }
        RpcReply::CompareState(reply) => {
            format!("CompareState reply term={} index={} {:?}", reply.term, reply.index, reply.verdict)
        }
        RpcReply::Founding(reply) => format!("Founding reply {reply:?}"),
    }
}

/// The first life of a node that counts needs no word.
fn life(life: Life) -> String {
    let number = if life.incarnation == 0 { String::new() } else { format!(" life={}", life.incarnation) };
    format!("{number}{}", if life.joining { " joining" } else { "" })
}

/// An entry, index/term:command.
pub fn entry(entry: &Entry) -> String {
    if let Some(members) = Members::of_command(&entry.command) {
        let members = members.to_string().replace(", ", "+").replace(" (learner)", "(learner)");
        return format!("{}/{}:members={members}", entry.index, entry.term);
    }
    let command = if entry.command.is_noop() { "no-op" } else { entry.command.as_json().trim_matches('"') };
    format!("{}/{}:{command}", entry.index, entry.term)
}

/// The outcome of a proposal.
pub fn resolution(resolution: &Resolution) -> String {
    match resolution {
        Resolution::Committed { index, term } => format!("committed at {index}/{term}"),
        Resolution::NotLeader { leader: Some(leader) } => format!("refused: node {leader} leads"),
        Resolution::NotLeader { leader: None } => "refused: no leader is known".into(),
        Resolution::Busy => "refused: busy".into(),
        Resolution::Refused(why) => format!("refused: {why:?}"),
        Resolution::Unknown => "unknown: it may or may not commit".into(),
    }
}

fn vote(arguments: &RequestVote) -> String {
    format!(
        "term={} last={}/{}{}",
        arguments.term,
        arguments.last_log_index,
        arguments.last_log_term,
        if arguments.leadership_transfer { " transfer" } else { "" }
    )
}

fn vote_reply(reply: &VoteReply) -> String {
    let granted = if reply.vote_granted { "granted" } else { "refused" };
    format!("term={} for={} {granted}", reply.term, reply.for_term)
}
