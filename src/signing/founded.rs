//! The founding in an envelope: how it is written, and the refusal of another one. Used on both sides, by the seal and
//! by the gate.

use super::{Refusal, RefusalKind, header_form, is_name_byte};
use crate::protocol::{HEADER_FOUNDING, node_id};
use crate::raft::Founding;

/// The longest value, in bytes: a name, and the ids of as many nodes as a configuration may have.
const FOUNDING_BYTES_MAX: usize = 512;

/// The value of the header: `lab:1,2,3`.
pub(super) fn founding_form(founding: &Founding) -> String {
    let members: Vec<String> = founding.members.iter().map(ToString::to_string).collect();
    format!("{}:{}", header_form(&founding.cluster), members.join(","))
}

/// Compares the founding in a header with `ours`, if there are both. `me` and `them` are names of an envelope, such as
/// `node-1`.
///
/// # Errors
/// `WrongFounding`, with both foundings and the mend; `Malformed`, if the value is not fit for a log line.
pub(super) fn check_founding(
    ours: Option<&str>,
    theirs: Option<&str>,
    me: &str,
    them: &str,
) -> Result<(), Refusal> {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(()) };
    if theirs == ours {
        return Ok(());
    }
    let fit = theirs.len() <= FOUNDING_BYTES_MAX
        && theirs.bytes().all(|byte| is_name_byte(byte) || byte == b'%' || byte == b',');
    if !fit {
        return Err(Refusal::new(
            RefusalKind::Malformed,
            format!("{HEADER_FOUNDING} must be as in lab:1,2,3"),
        ));
    }
    let them = match (node_id(them), them) {
        (Some(id), _) => format!("node {id}"),
        (None, "") => "the sender".to_owned(),
        (None, name) => name.to_owned(),
    };
    let (ours, theirs) = (in_words(ours), in_words(theirs));
    let difference = if node_id(me).is_some() {
        format!("this node was founded as {ours}; {them} says {theirs}")
    } else {
        format!("the cluster.toml here says {ours}; {them} was founded as {theirs}")
    };
    let mend = "give every machine the same cluster.toml, with the name and the [[node]] ids of the founding";
    Err(Refusal::new(RefusalKind::WrongFounding, format!("{difference}; {mend}")))
}

/// `lab:1,2,3` as a person writes it: `lab: 1, 2, 3`.
fn in_words(form: &str) -> String {
    let (name, members) = form.rsplit_once(':').unwrap_or(("", form));
    format!("{name}: {}", members.replace(',', ", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_told_in_words() {
        let (five, three) = (Founding::new("lab", 1..=5), Founding::new("lab", 1..=3));
        let (five, three) = (founding_form(&five), founding_form(&three));
        assert_eq!(three, "lab:1,2,3");
        let tell = |me, them| check_founding(Some(&five), Some(&three), me, them).expect_err("they differ");
        let refusal = tell("node-4", "node-1");
        assert_eq!(refusal.kind, RefusalKind::WrongFounding);
        assert!(
            refusal
                .detail
                .starts_with("this node was founded as lab: 1, 2, 3, 4, 5; node 1 says lab: 1, 2, 3; give"),
            "{refusal}"
        );
        let detail = tell("daemon:lab-01", "node-1").detail;
        let wanted =
            "the cluster.toml here says lab: 1, 2, 3, 4, 5; node 1 was founded as lab: 1, 2, 3; give";
        assert!(detail.starts_with(wanted), "{detail}");
    }

    #[test]
    fn who_says_nothing_is_not_refused_and_nonsense_is() {
        assert_eq!(check_founding(None, Some("lab:1"), "node-1", "node-2"), Ok(()));
        assert_eq!(check_founding(Some("lab:1"), None, "node-1", "node-2"), Ok(()));
        let nonsense = check_founding(Some("lab:1"), Some("lab 1\u{7f}"), "node-1", "node-2");
        assert_eq!(nonsense.expect_err("no founding").kind, RefusalKind::Malformed);
    }
}
