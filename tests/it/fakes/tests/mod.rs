//! The stand-ins, tested themselves: a test server that errs would make every other test lie.

mod doors;
mod engines;
mod faults;
mod replays;
mod scripts;
mod shapes;
