//! Files that are targets by what is in them: looked through by a scout, a few at a time. The broker opens them, and reads
//! nothing.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::Duration;

use ecapture_plugin_api::manifest::Target;

use super::attend::{Attended, printable};
use crate::protocol::{FromScout, ScoutJob, ScoutStart};
use crate::sandbox::{Identity, Role};
use crate::target::{Found, discover};

/// Files handed to one scout.
pub const BATCH: usize = 240;
/// For one batch; the largest programs are read in a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those of the files, at most [`BATCH`] and all programs or all libraries, that have one of the texts in them.
pub async fn sift(identity: Identity, texts: Vec<String>, files: Vec<Found>) -> Vec<Found> {
    let answers = answers(files, async |files: &[Found]| ask(identity, texts.clone(), files).await).await;
    let mut found = Vec::new();
    for (file, answer) in answers {
        match answer {
            Ok(true) => found.push(file),
            Ok(false) => {}
            Err(why) => tracing::warn!("not looked through: {}: {}", file.path.display(), printable(&why)),
        }
    }
    found
}

/// Each file with its answer. A file at which a scout dies costs the others nothing but another scout: they are handed out
/// again in halves until it is alone.
async fn answers<F>(
    files: Vec<F>,
    ask: impl AsyncFn(&[F]) -> Result<Vec<Result<bool, String>>, String>,
) -> Vec<(F, Result<bool, String>)> {
    let mut answered = Vec::with_capacity(files.len());
    let mut batches = vec![files];
    while let Some(mut files) = batches.pop() {
        match ask(&files).await {
            Ok(answer) => answered.extend(files.into_iter().zip(answer)),
            Err(why) if files.len() < 2 => {
                answered.extend(files.into_iter().map(|file| (file, Err(format!("the scout {why}")))));
            }
            Err(_) => {
                let rest = files.split_off(files.len() / 2);
                batches.extend([rest, files]);
            }
        }
    }
    answered
}

/// An answer for each of the files, from one scout.
async fn ask(identity: Identity, texts: Vec<String>, files: &[Found]) -> Result<Vec<Result<bool, String>>, String> {
    let start = ScoutStart { identity, job: ScoutJob::Sift(texts) };
    let fds: Vec<_> = files.iter().map(|f| f.file.as_fd()).collect();
    let mut scout = Attended::start(Role::Scout, "scout that looks through files".to_owned(), &start, &fds)
        .map_err(|failure| failure.to_string())?;
    let (mut answer, mut refused) = (None, None);
    let talk = async {
        while let Some(message) = scout.receive::<FromScout>().await {
            match message {
                FromScout::Boundary(report) => super::watch::boundary("scout", &report),
                FromScout::Sifted(which) => answer = Some(which),
                FromScout::Failed(why) => refused = Some(why),
                FromScout::Answer(_) | FromScout::Filter(_) => {}
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, talk).await.is_ok();
    let ended = scout.ended(if in_time { Duration::from_secs(1) } else { Duration::ZERO }).await;
    answer
        .filter(|answer: &Vec<_>| answer.len() == files.len())
        .ok_or_else(|| refused.unwrap_or_else(|| ended.map_or_else(|e| e.to_string(), |e| e.to_string())))
}

/// Everything that these processes run or map and that is a target by what is in it, each once.
pub async fn of_processes(targets: &[Target], pids: &[u32]) -> Vec<Found> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for pid in pids {
        files.extend(discover::unnamed(targets, *pid, |id| seen.insert(id)).into_iter().map(|unnamed| unnamed.found));
    }
    let (programs, libraries): (Vec<Found>, Vec<Found>) = files.into_iter().partition(|f| f.program);
    let mut found = Vec::new();
    for (program, files) in [(true, programs), (false, libraries)] {
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            let batch = files.by_ref().take(BATCH).collect();
            found.extend(sift(Identity::choose(), discover::contained(targets, program), batch).await);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_file_at_which_scouts_die_takes_no_other_with_it() {
        let ask = async |files: &[u32]| match files.contains(&77) {
            true => Err("was killed by signal 11".to_owned()),
            false => Ok(files.iter().map(|file| Ok(file % 10 == 0)).collect()),
        };
        let answers = answers((0..240).collect(), ask).await;
        assert!(answers.iter().map(|(file, _)| *file).eq(0..240), "each once, in order");
        for (file, answer) in answers {
            match file {
                77 => assert_eq!(answer, Err("the scout was killed by signal 11".to_owned())),
                file => assert_eq!(answer, Ok(file % 10 == 0), "{file}"),
            }
        }
    }

    #[tokio::test]
    async fn no_file_is_not_halved_for_ever() {
        let ask = async |_: &[u32]| Err("did not start".to_owned());
        assert!(answers(Vec::new(), ask).await.is_empty());
    }
}
