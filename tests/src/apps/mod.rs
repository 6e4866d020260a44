//! An application as people run them, for backends of a test: Flask in front of a real PostgreSQL and a real Redis, each of which may die.

mod flask;
mod postgres;

pub use flask::{App, Needs};
pub use postgres::Postgres;
