//! Archiving into several repositories: when it counts as done.

use pitr_console::{Console, Failure};
use pitr_core::WalFileName;
use pitr_store::wal::{MemberError, MemberPush, Pushed, WalSource, catch_up, push_to_all};
use pitr_store::{ClusterIdentity, Codec, RepositorySet};

use super::warn_of_damage;

/// Stores the file in all repositories, and is done when as many as are
/// required have it.
pub(crate) fn push_to_several(
    set: &RepositorySet,
    identity: &ClusterIdentity,
    name: &WalFileName,
    source: &mut dyn WalSource,
    codec: Codec,
    console: Console,
) -> Result<(), Failure> {
    let members = push_to_all(set, identity, name, source, codec)?;
    conclude(&members, name, set, console)
}

/// Says what became of the file in all repositories, and is done when as many as are
/// required have it.
pub(super) fn conclude(
    members: &[MemberPush],
    name: &WalFileName,
    set: &RepositorySet,
    console: Console,
) -> Result<(), Failure> {
    warn_of_damage_in(members, name, console);
    judge(members, name, set.required(), console)?;
    if members
        .iter()
        .all(|member| matches!(member.outcome, Ok(Pushed::AlreadyPresent(_))))
    {
        console.log(format!(
            "\"{name}\" is in all repositories already, with the same content"
        ));
    }
    make_up(members, name, console);
    Ok(())
}

/// Stores a little of what a repository missed while it did not answer. The
/// file itself is safe by now, so nothing here can fail the push.
fn make_up(members: &[MemberPush], name: &WalFileName, console: Console) {
    let Some(newest) = name.segment() else {
        return;
    };
    let (locations, archives): (Vec<_>, Vec<_>) = members
        .iter()
        .filter(|member| member.outcome.is_ok())
        .filter_map(|member| Some((&member.location, member.archive.as_ref()?)))
        .unzip();
    if archives.len() < 2 {
        return;
    }
    let caught_up = match catch_up(&newest, &archives) {
        Ok(caught_up) => caught_up,
        Err(error) => {
            return console.warn(
                format!("could not look for what the repositories lack: {error}"),
                Some(&format!("\"{name}\" itself is stored.")),
                error.hint().as_deref(),
            );
        }
    };
    for (location, result) in locations.into_iter().zip(caught_up) {
        if let (Some(first), Some(last)) = (result.copied.first(), result.copied.last()) {
            console.log(format!(
                "repository \"{location}\" was given {} files that it had missed, {first} to {last}; \
                 {} more are missing near there",
                result.copied.len(),
                result.left
            ));
        }
        if let Some(error) = result.error {
            console.warn(
                format!("repository \"{location}\" could not be given what it had missed: {error}"),
                Some(&format!("\"{name}\" itself is stored.")),
                error.hint().as_deref(),
            );
        }
    }
}

fn warn_of_damage_in(members: &[MemberPush], name: &WalFileName, console: Console) {
    let summary = members.iter().find_map(|member| match &member.outcome {
        Ok(Pushed::Stored { summary, .. }) => summary.as_ref(),
        _ => None,
    });
    if let Some(summary) = summary.filter(|summary| summary.is_damaged()) {
        warn_of_damage(name, summary, console);
    }
}

/// Whether the server may recycle its copy.
fn judge(
    members: &[MemberPush],
    name: &WalFileName,
    required: usize,
    console: Console,
) -> Result<(), Failure> {
    let errors: Vec<(&MemberPush, &MemberError)> = members
        .iter()
        .filter_map(|member| Some((member, member.outcome.as_ref().err()?)))
        .collect();
    if let Some((refusing, error)) = errors.iter().find(|(_, error)| error.is_refusal()) {
        return Err(refused(members, refusing, error));
    }
    let done = members.len() - errors.len();
    if done >= required {
        for (member, error) in &errors {
            console.warn(
                format!(
                    "repository \"{}\" does not have \"{name}\" and is behind: {error}",
                    member.location
                ),
                Some(&format!(
                    "It is in {done} of {} repositories, and {required} must have it.",
                    members.len()
                )),
                Some(&format!(
                    "{}Later pushes and \"pitr-archive sync\" store there what it lacks.",
                    error.hint().map_or_else(String::new, |hint| hint + " ")
                )),
            );
        }
        return Ok(());
    }
    let Some((first, error)) = errors.first() else {
        return Ok(());
    };
    let mut details = vec![format!(
        "It is in {done} of {} repositories, and {required} must have it; those that have it keep it.",
        members.len()
    )];
    details.extend(
        errors
            .iter()
            .skip(1)
            .map(|(member, error)| format!("Nor does \"{}\": {error}.", member.location)),
    );
    Err(Failure::new(format!(
        "repository \"{}\" does not have \"{name}\": {error}",
        first.location
    ))
    .with_detail(details.join("\n"))
    .with_hint_of(error.hint()))
}

/// One repository says that this certainly does not belong there. What the
/// others say of it tells the DBA which side is wrong.
fn refused(members: &[MemberPush], refusing: &MemberPush, error: &MemberError) -> Failure {
    let others: Vec<String> = members
        .iter()
        .filter(|member| member.location != refusing.location)
        .map(|member| match &member.outcome {
            Ok(Pushed::AlreadyPresent(object) | Pushed::StoredAhead(object)) => format!(
                "Repository \"{}\" has the content that is offered, as \"{}\".",
                member.location, object.location
            ),
            Ok(Pushed::Stored { .. }) => {
                format!("It was stored in repository \"{}\".", member.location)
            }
            Err(MemberError::NotTried { location }) => {
                format!("Nothing was stored in repository \"{location}\".")
            }
            Err(other) => format!("Repository \"{}\": {other}.", member.location),
        })
        .collect();
    Failure::new(error.to_string())
        .with_detail(others.join("\n"))
        .with_hint_of(error.hint())
}
