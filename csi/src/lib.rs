//! The CSI driver `fs.stash.appscode.com`: a snapshot of a Repository is a volume of a pod.
//!
//! # How a volume is published
//!
//! Kubelet calls the Node service ([`node`]). The request is read into types ([`volume`], [`target`], [`capability`]: pure, each wrong
//! attribute refused by name), the volume is held so that nobody else works on it ([`lock`]), who asks is judged by what the API server
//! says ([`authorise`]: pure, [`cluster`]), a snapshot is chosen ([`resolve`]: pure) and written down ([`pins`]), and the node daemon is
//! asked to mount it ([`daemon`], [`control`]).
//!
//! # What must always hold
//!
//! * Nothing is mounted for a pod that the API server does not know, or whose namespace and account may not.
//! * A failure to ask is a refusal.
//! * The driver mounts, binds and unmounts nothing itself, and opens no store; of a node it changes its own folder and the folders to
//!   mount on ([`folder`]).
//! * Secrets are in memory and in the daemon's request, nowhere else: not in logs, errors, arguments, files.
//! * A volume shows the snapshot that was chosen first, however often it is asked for.
//! * One call for a volume at a time; a second is told to come back.

pub mod args;
pub mod at_start;
pub mod authorise;
mod authority;
pub mod capability;
pub mod cluster;
pub mod control;
pub mod controller;
pub mod daemon;
pub mod folder;
pub mod identity;
pub mod lock;
pub mod names;
pub mod node;
pub mod pins;
pub mod populate;
pub mod proto;
pub mod provision;
pub mod provisioner;
pub mod publish;
pub mod quantity;
pub mod register;
pub mod repository;
pub mod resolve;
pub mod run;
pub mod server;
pub mod status;
pub mod taint;
pub mod target;
mod telemetry;
pub mod volume;

pub use args::Args;
pub use control::Control;
pub use run::run;
