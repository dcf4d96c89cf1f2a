//! The benchmark of the controller: many configurations that are due each minute, on a real API server. Jobs are real objects; the
//! benchmark plays those who work on them: it makes their pods, ends them with a report, and collects what a session leaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark fails by panicking")]

mod figures;
mod player;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use figures::{Figures, Requests};
use world::World;

/// Measures the controller: how late sessions are made, its memory, its requests when nothing is due.
#[derive(Debug, Parser)]
struct Args {
    /// How many BackupConfigurations there are
    #[arg(long, default_value_t = 1000)]
    configurations: usize,
    /// How many minutes they are due in
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// How many seconds the API server is watched while nothing is due
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Where the figures are written
    #[arg(long, default_value = "target/bench-controller.json")]
    json: PathBuf,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let mut world = World::start().await;
    println!("{} configurations are made; nothing is due", args.configurations);
    world.configure(args.configurations).await;
    let own = Requests::count(&world).await;
    pause(Duration::from_secs(args.idle / 2)).await;
    let without = Requests::count(&world).await.since(&own);

    let started = Instant::now();
    let controller = world.controller();
    world.wait_until_ready(args.configurations).await;
    println!("all are Ready {:.1} s after the controller was started", started.elapsed().as_secs_f64());
    let ready = started.elapsed();
    // What its first look at everything set off has ended.
    pause(Duration::from_secs(10)).await;
    let before = Requests::count(&world).await;
    pause(Duration::from_secs(args.idle)).await;
    let idle = Requests::count(&world).await.since(&before);
    let requests = (idle.per_second() - without.per_second()).max(0.0);
    println!("nothing due: {requests:.2} requests/s beside watches");

    println!("all are due each minute, for {} minutes", args.minutes);
    let play = player::start(&world);
    world.schedule(args.configurations, "* * * * *").await;
    let begin = figures::next_minute(jiff::Timestamp::now());
    let end = begin + jiff::SignedDuration::from_mins(i64::try_from(args.minutes).unwrap());
    player::until(end + jiff::SignedDuration::from_secs(5)).await;
    let sessions = play.sessions();
    let figures = Figures {
        configurations: args.configurations,
        minutes: args.minutes,
        ready_seconds: ready.as_secs_f64(),
        idle_requests_per_second: requests,
        memory_mb: controller.peak_memory_mb(),
        cpu_seconds: controller.cpu_seconds(),
        lateness: figures::lateness(&sessions, begin, end),
        ended: play.ended(),
    };
    std::fs::write(&args.json, serde_json::to_vec_pretty(&figures).unwrap()).unwrap();
    let holds = figures.print();
    drop(controller);
    if !holds {
        panic!("not all figures hold");
    }
}

/// Lets time pass over which something is counted.
async fn pause(time: Duration) {
    tokio::time::sleep_until(Instant::now() + time).await;
}
