//! One binary for all suites. A name's prefix says what a test needs: `root_` root's rights; `k8s_`
//! root's rights and the programs of a Kubernetes; nothing, only a user.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod backends;
mod cli;
mod control_proto;
mod corpus;
mod damage;
mod fidelity;
mod filter;
mod hostile;
mod job;
mod k8s_apiserver;
mod k8s_backup;
mod k8s_chart;
mod k8s_cluster;
mod k8s_controller;
mod k8s_crds;
mod k8s_csi;
mod k8s_hooks;
mod k8s_kubectl;
mod k8s_restore;
mod k8s_snapshots;
mod k8s_stop;
mod restore;
mod root_full_disk;
mod root_kept;
mod root_mount_adapter;
mod root_mount_faults;
mod root_mount_program;
mod root_mount_syscalls;
mod root_serve;
mod root_vfs_restic;
mod vfs_forged;
mod workspace;
mod write_backup;
mod write_locks;
mod write_retention;
