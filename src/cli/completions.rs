//! `completions`: what a shell reads to complete commands and options, made from the definitions themselves.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::{Exit, Failure};
use super::{Cli, print as print_bytes};

pub const HELP: &str = "\
Where it goes:
  bash  ringbeam completions bash > ~/.local/share/bash-completion/completions/ringbeam
  zsh   ringbeam completions zsh  > a folder of $fpath, as _ringbeam
  fish  ringbeam completions fish > ~/.config/fish/completions/ringbeam.fish
Without it, any beginning of a command that only one has will do: `ringbeam stat`, `ringbeam r tr --to 2`.";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Whose.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
pub fn print(shell: Shell) -> Result<Exit, Failure> {
    print_bytes(&script(shell))?;
    Ok(Exit::Done)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringbeam", &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_its_options_can_be_completed() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).expect("text");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
            for option in ["consistency", "endpoints", "transfer", "keys-only"] {
                assert!(script.contains(option), "{shell}: {option}");
            }
        }
    }
}
