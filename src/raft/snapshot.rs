//! InstallSnapshot: section 7 and Figure 13 of the paper. For a follower that lacks entries which its leader has compacted.
//!
//! The snapshot's JSON text goes over in chunks, each asked for by its offset. Every chunk names the snapshot (index,
//! term and checksum of the whole), so chunks of two snapshots, or of two leaders, never mix.

use std::sync::Arc;

use super::core::Raft;
use super::incoming::IncomingSnapshot;
use super::role::Role;
use super::settings::INDEX_JUMP_MAX;
use super::{Apply, Durable, InstallReply, InstallSnapshot, NodeId, Notice, RpcId, RpcRequest, Snapshot};

impl Raft {
    // ------------------------------------------------------------------------------------------- as a leader

    /// Figure 13 / section 7: the leader must send snapshots "when the leader has already discarded the next log entry
    /// that it needs to send to a follower".
    pub(super) fn start_snapshot(&mut self, peer: NodeId) {
        let snapshot = Arc::clone(self.snapshot.as_ref().expect("what the log lacks is in the snapshot"));
        self.output.notices.push(Notice::SnapshotSent { to: peer, index: snapshot.last_index });
        if let Some(progress) = self.progress_mut(peer) {
            progress.snapshot = Some((snapshot, 0));
            progress.probing = false;
        }
        self.send_snapshot_chunk(peer);
    }

    pub(super) fn send_snapshot_chunk(&mut self, peer: NodeId) {
        let Some(progress) = self.progress_of(peer) else { return };
        let Some((snapshot, offset)) = progress.snapshot.clone() else { return };
        // After a loss, a chunk without data asks where to go on: the last one may still be on a slow link.
        let bytes_max = match progress.probing {
            true => 0,
            false => self.settings.snapshot_chunk_bytes.min(progress.pace.bytes_max()),
        };
        // No chunk of it has arrived (the peer may have been away for hours), and there is a newer snapshot by
        // now. The peer needs the newer one, and this node can drop the old one.
        let snapshot = match &self.snapshot {
            Some(newest) if offset == 0 && newest.last_index > snapshot.last_index => {
                let newest = Arc::clone(newest);
                if let Some(progress) = self.progress_mut(peer) {
                    progress.snapshot = Some((Arc::clone(&newest), 0));
                }
                newest
            }
            _ => snapshot,
        };
        let text = snapshot.state.as_json();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let mut end = start.saturating_add(bytes_max).min(text.len());
        while !text.is_char_boundary(end) {
            end += 1; // The text is UTF-8, and a chunk is a string: never cut within a character.
        }
        let request = RpcRequest::InstallSnapshot(InstallSnapshot {
            term: self.hard_state.term,
            leader_id: self.settings.id,
            last_included_index: snapshot.last_index,
            last_included_term: snapshot.last_term,
            offset,
            data: text[start..end].to_owned(),
            done: end == text.len(),
            checksum: crc32fast::hash(text.as_bytes()),
            members: snapshot.members.clone(),
        });
        let rpc = self.send_now(peer, request);
        self.note_sent(peer, rpc, end - start);
    }

    pub(super) fn receive_install_reply(&mut self, from: NodeId, rpc: RpcId, reply: InstallReply) {
        let own_term = self.hard_state.term;
        let (now, next_try, allowed) = (self.now, self.now + self.settings.heartbeat, self.time_for_size());
        if reply.term < own_term {
            return;
        }
        self.hear_life(from, reply.life);
        let Some(progress) = self.progress_mut(from) else { return };
        progress.answered(rpc, now, allowed);
        let asked_only = std::mem::take(&mut progress.probing);
        let Some((snapshot, offset)) = &mut progress.snapshot else { return };
        if snapshot.last_index != reply.last_included_index {
            return; // About an earlier snapshot.
        }
        let text = snapshot.state.as_json();
        if reply.installed {
            let index = snapshot.last_index;
            progress.snapshot = None;
            // Also if this is exactly the commit index: otherwise the leader would probe for ever.
            progress.matched(index);
            progress.heartbeat_due = true;
            progress.commit_sent = progress.commit_sent.max(index);
            self.advance_commit();
            self.continue_transfer(from);
            self.promote_if_caught_up(from);
            self.farewell(from);
        } else {
            let wanted = usize::try_from(reply.next_offset).ok().filter(|next| text.is_char_boundary(*next));
            let wanted = wanted.unwrap_or(0) as u64;
            if wanted <= *offset && !asked_only {
                // The peer took nothing of the chunk. It starts over, or it refuses this snapshot, perhaps for
                // ever. So this node sends the next chunk no faster than heartbeats.
                progress.pause_until = next_try;
            }
            *offset = wanted;
            progress.heartbeat_due = true;
        }
    }

    // ----------------------------------------------------------------------------------------- as a follower

    /// Figure 13, InstallSnapshot, receiver.
    pub(super) fn receive_install_snapshot(
        &mut self,
        from: NodeId,
        arguments: InstallSnapshot,
    ) -> InstallReply {
        let last_index = arguments.last_included_index;
        let reply = |raft: &Self, next_offset: u64, installed: bool| InstallReply {
            term: raft.hard_state.term,
            life: raft.life(),
            last_included_index: last_index,
            next_offset,
            installed,
        };
        // 1. Reply immediately if term < currentTerm.
        if !self.accept_leader(from, arguments.leader_id, arguments.term) {
            return reply(self, 0, false);
        }
        if arguments.last_included_term > arguments.term {
            self.suspicious(format!("node {from} sent a snapshot of a term to come; refused"));
            return reply(self, 0, false);
        }
        let list = arguments.members.as_ref();
        if list.is_some_and(|list| !list.is_possible_at(last_index)) {
            self.suspicious(format!("node {from} sent a snapshot with impossible members; refused"));
            return reply(self, 0, false);
        }
        if last_index.saturating_sub(self.log.last_index()) > INDEX_JUMP_MAX {
            self.suspicious(format!(
                "node {from} sent a snapshot up to index {last_index}, absurdly far from {}; refused",
                self.log.last_index()
            ));
            return reply(self, 0, false);
        }
        // The committed part of this log already covers the snapshot. A commit index never goes back.
        if last_index <= self.commit_index {
            self.incoming_snapshot = None;
            return reply(self, 0, true);
        }
        // Terms never decrease along a log, and none is 0. So a true snapshot that reaches beyond the commit
        // index has at least the term of the committed entry. The storage asserts the same, and would end this
        // node.
        let committed_term = self.log.term_at(self.commit_index).unwrap_or(0).max(1);
        if arguments.last_included_term < committed_term {
            self.suspicious(format!(
                "node {from} sent a snapshot that is older than what is committed; refused"
            ));
            return reply(self, 0, false);
        }
        // 2. to 4. Gather the chunks. A chunk of another snapshot than the one begun, or at another place, is answered with
        //    where to go on.
        let bytes_max = self.settings.snapshot_bytes_max;
        let incoming = match &mut self.incoming_snapshot {
            Some(begun) if begun.continues_with(&arguments) => begun,
            other => other.insert(IncomingSnapshot::begin(&arguments)),
        };
        if arguments.offset != incoming.next_offset() {
            let next_offset = incoming.next_offset();
            return reply(self, next_offset, false);
        }
        if !incoming.push(&arguments.data, bytes_max) {
            self.incoming_snapshot = None;
            self.suspicious(format!("node {from} sends a snapshot of more than {bytes_max} bytes; refused"));
            return reply(self, 0, false);
        }
        if !arguments.done {
            let next_offset = incoming.next_offset();
            return reply(self, next_offset, false);
        }
        let incoming = self.incoming_snapshot.take().expect("the last chunk was just put into it");
        let state = incoming.finish();
        let Some(state) = state else {
            self.suspicious(format!("the snapshot that node {from} sent arrived damaged; starting over"));
            return reply(self, 0, false);
        };
        // The checksum proves that the snapshot arrived as it was sent, not that it holds a server table: a
        // stranger may have sent it. A node that stays behind, and logs why, is better than a node without a
        // state.
        if let Err(reason) = (self.settings.state_is_valid)(last_index, &state) {
            self.suspicious(format!(
                "node {from} sent a snapshot that means nothing here ({reason}); refused"
            ));
            return reply(self, 0, false);
        }
        let InstallSnapshot { last_included_term: last_term, members, .. } = arguments;
        self.install(Snapshot { last_index, last_term, state, members });
        reply(self, 0, true)
    }

    /// Figure 13, steps 5 to 8.
    fn install(&mut self, snapshot: Snapshot) {
        let (index, term) = (snapshot.last_index, snapshot.last_term);
        // 6. If existing log entry has same index and term as snapshot's last included entry, retain log entries
        //    following it. 7. Else discard the entire log.
        let retains = self.log.term_at(index) == Some(term);
        if retains {
            self.log.compact(index);
        } else {
            self.log.reset(index, term);
            self.configurations.truncated(index + 1);
        }
        let before = self.configuration().clone();
        self.configurations.restored(index, snapshot.members.clone());
        let has_changed = *self.configuration() != before;
        let snapshot = Arc::new(snapshot);
        self.snapshot = Some(Arc::clone(&snapshot));
        self.restored(index, retains);
        self.output.durable.push(Durable::Compact {
            snapshot: Arc::clone(&snapshot),
            hard_state: self.hard_state,
            retained: self.log.slice(index + 1, usize::MAX, usize::MAX),
        });
        // 8. Reset state machine using snapshot contents. Entries that were handed out to be applied earlier come before it in
        //    the same list, so apply and install never race.
        self.output.apply.push(Apply::Restore(snapshot));
        self.output.notices.push(Notice::SnapshotInstalled { index });
        if has_changed {
            self.members_changed();
        }
        self.leave_if_removed();
        assert!(!matches!(self.role, Role::Leader(_)), "a leader installs nobody's snapshot");
    }
}
