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
    let start = ScoutStart { identity, job: ScoutJob::Sift(texts) };
    let fds: Vec<_> = files.iter().map(|f| f.file.as_fd()).collect();
    let mut answer: Option<Vec<Result<bool, String>>> = None;
    let mut refused = None;
    match Attended::start(Role::Scout, "scout that looks through files".to_owned(), &start, &fds) {
        Ok(mut scout) => {
            let talk = async {
                while let Some(message) = scout.receive::<FromScout>().await {
                    match message {
                        FromScout::Boundary(report) => super::watch::boundary("scout", &report),
                        FromScout::Sifted(which) => answer = Some(which),
                        FromScout::Failed(why) => refused = Some(why),
                        FromScout::Answer(_) => {}
                    }
                }
            };
            let in_time = tokio::time::timeout(PATIENCE, talk).await.is_ok();
            let ended = scout.ended(if in_time { Duration::from_secs(1) } else { Duration::ZERO }).await;
            refused = refused.or_else(|| Some(ended.map_or_else(|e| e.to_string(), |e| e.to_string())));
        }
        Err(failure) => refused = Some(failure.to_string()),
    }
    let Some(answer) = answer.filter(|answer| answer.len() == files.len()) else {
        let why = refused.unwrap_or_default();
        let paths: Vec<String> = files.iter().map(|f| f.path.display().to_string()).collect();
        tracing::warn!("not looked through: {}: the scout {}", paths.join(", "), printable(&why));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (file, has) in files.into_iter().zip(answer) {
        match has {
            Ok(true) => found.push(file),
            Ok(false) => {}
            Err(why) => tracing::warn!("not looked through: {}: {}", file.path.display(), printable(&why)),
        }
    }
    found
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
