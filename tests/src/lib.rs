//! The rig of the end-to-end tests: private copies of real servers, a client that says exactly which bytes it sent, and
//! the program under test as a process.
//!
//! A test touches only what it started: its server runs from a private copy of the binary in a temporary directory, as an
//! unprivileged user, on a unix socket, and is stopped by its own process id.

pub mod bash;
pub mod capture;
pub mod container;
pub mod disk;
pub mod document;
pub mod engine;
pub mod frames;
pub mod keys;
pub mod load;
pub mod mariadb;
pub mod memory;
pub mod million;
pub mod mysql;
pub mod needs;
pub mod network;
pub mod postgres;
pub mod recording;
pub mod server;
pub mod shell;
pub mod sources;
pub mod suites;
pub mod target;
pub mod terminal;
pub mod tls;
pub mod variants;
pub mod versions;
pub mod web;
pub mod wheels;
pub mod workload;
pub mod zsh;
