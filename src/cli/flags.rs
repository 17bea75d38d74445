//! The flags of `serve` and `check`: one per variable of the configuration, made from its table.
//! Knows no meanings; checking is the configuration's.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};

use crate::config::{Kind, VARS};

/// Variable names with the values that flags gave them.
#[derive(Clone, Debug, Default)]
pub struct Flags(pub BTreeMap<String, String>);

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for var in VARS.iter().filter(|var| var.flag().is_some()) {
            if let Some(value) = matches.get_one::<String>(var.name) {
                self.0.insert(var.name.to_owned(), value.clone());
            }
        }
        Ok(())
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        VARS.iter().fold(command, |command, var| {
            let Some(flag) = var.flag() else {
                return command;
            };
            let mut arg = Arg::new(var.name)
                .long(flag)
                .value_name("VALUE")
                .help(format!(
                    "{} [{}] [default: {}]",
                    var.meaning.trim_end_matches('.'),
                    var.name,
                    var.default
                ))
                .help_heading("Configuration, each also an environment variable");
            if var.kind == Kind::Switch {
                arg = arg
                    .value_name("BOOL")
                    .num_args(0..=1)
                    .default_missing_value("true");
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
