//! A tcpdump expression, compiled by libpcap in a child of its own, which has no privilege. What comes back is looked through before it
//! is believed.

use std::time::Duration;

use super::attend::{Attended, printable};
use super::watch;
use crate::failure::{Exit, Failure};
use crate::packet::filter::{Filter, objection};
use crate::packet::libpcap::FilterError;
use crate::protocol::{FromScout, ScoutJob, ScoutStart};
use crate::sandbox::{Identity, Role};

/// Names of hosts may have to be asked for in the network.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program of an expression.
///
/// # Errors
/// `E-FILTER` with libpcap's words, or what is to be installed; `E-CHILD`.
pub async fn compile(expression: &str) -> Result<Filter, Failure> {
    let start = ScoutStart { identity: Identity::choose(), job: ScoutJob::Filter(expression.to_owned()) };
    let mut child = Attended::start(Role::Scout, "child that compiles the packet filter".to_owned(), &start, &[])?;
    let mut answer = None;
    let mut refused = None;
    let talk = async {
        while let Some(message) = child.receive::<FromScout>().await {
            match message {
                FromScout::Boundary(report) => watch::boundary("scout", &report),
                FromScout::Filter(compiled) => answer = Some(compiled),
                FromScout::Failed(why) => refused = Some(why),
                FromScout::Answer(_) | FromScout::Sifted(_) => {}
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, talk).await.is_ok();
    let ended = child.ended(if in_time { Duration::from_secs(1) } else { Duration::ZERO }).await;
    match answer {
        Some(Ok(filter)) if filter.programs.values().all(|program| objection(program).is_none()) => Ok(filter),
        Some(Ok(_)) => Err(Failure::new("E-CHILD", "the child that compiles the packet filter answers nonsense")),
        Some(Err(error)) => Err(failure(&error)),
        None => {
            let why = refused.unwrap_or_else(|| ended.map_or_else(|e| e.to_string(), |e| e.to_string()));
            let text = format!("the child that compiles the packet filter {}", printable(&why));
            Err(Failure::new("E-CHILD", text))
        }
    }
}

fn failure(error: &FilterError) -> Failure {
    let failure = Failure::new("E-FILTER", printable(&error.to_string()));
    match error {
        FilterError::Library(_) => failure
            .remedy("install it: the package libpcap0.8 (Debian and its kin), libpcap (Fedora and others), or leave out the filter"),
        FilterError::Expression { .. } => failure
            .remedy("`man pcap-filter` has the language; quote an expression of several words for the shell")
            .exit(Exit::Usage),
    }
}
