use clap::CommandFactory;
use clap::error::ErrorKind;
use ringbeam_sdk::{Code, Error, Refusal};

use super::*;

fn parse(line: &str) -> Result<Cli, ErrorKind> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.kind())
}

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_a_person_types_is_taken() {
    for line in [
        "ringbeam serve --config node.toml",
        "ringbeam put k v",
        "ringbeam put k -5",
        "ringbeam put k -",
        "ringbeam put k",
        "ringbeam put k -- --odd",
        "ringbeam put k --file f --namespace n --timeout-ms 100 --endpoints a:1,b:2 --json",
        "ringbeam get k --consistency local --json",
        "ringbeam delete k",
        "ringbeam watch",
        "ringbeam watch cart: --snapshot --json --previous --conflate --count 5 --for 1.5",
        "ringbeam watch --from a --until b --after 12.3",
        "ringbeam status --json",
        "ringbeam ring add --node 4 --peer h4:7702",
        "ringbeam ring promote --node 4",
        "ringbeam ring remove --node 4",
        "ringbeam ring replace --node 3 --by 4 --peer h4:7702 --wait-ms 1000",
        "ringbeam ring transfer",
        "ringbeam ring transfer --shard 1 --to 2 --endpoints a:1",
        // Any beginning that only one command has.
        "ringbeam stat",
        "ringbeam r tr --to 2",
        "ringbeam completions zsh",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, kind) in [
        ("ringbeam serve", ErrorKind::MissingRequiredArgument),
        ("ringbeam put", ErrorKind::MissingRequiredArgument),
        ("ringbeam put k v --file f", ErrorKind::ArgumentConflict),
        ("ringbeam get k --consistency eventual", ErrorKind::InvalidValue),
        ("ringbeam get k --timeout-ms 0", ErrorKind::ValueValidation),
        ("ringbeam ring add --node 0 --peer h:1", ErrorKind::ValueValidation),
        ("ringbeam ring add --node 4 --peer h", ErrorKind::ValueValidation),
        ("ringbeam ring add --node 4 --peer :7702", ErrorKind::ValueValidation),
        ("ringbeam ring replace --node 3 --by 4", ErrorKind::MissingRequiredArgument),
        ("ringbeam watch p --from a", ErrorKind::ArgumentConflict),
        ("ringbeam watch p --after 12", ErrorKind::ValueValidation),
        ("ringbeam watch p --after 12.3 --snapshot", ErrorKind::ArgumentConflict),
        ("ringbeam watch p --for -1", ErrorKind::UnknownArgument),
        ("ringbeam watch p --count 0", ErrorKind::ValueValidation),
        ("ringbeam observe", ErrorKind::InvalidSubcommand),
        // Serve, scan, status.
        ("ringbeam s", ErrorKind::InvalidSubcommand),
        ("ringbeam completions", ErrorKind::MissingRequiredArgument),
    ] {
        assert_eq!(parse(line).err(), Some(kind), "{line}");
    }
}

#[test]
fn every_way_to_fail_has_its_exit_code() {
    let code = |error: Error| Failure::from(error).exit as u8;
    assert_eq!(code(Error::Refused(Refusal::new(Code::KeyTooLarge, "x"))), 3);
    assert_eq!(code(Error::Refused(Refusal::new(Code::OutcomeUnknown, "x"))), 4);
    assert_eq!(code(Error::Unknown { shard: 0, session: 0, sequence: 0, why: "x".into() }), 4);
    assert_eq!(code(Error::Timeout { timeout_ms: 1, why: "x".into() }), 5);
    assert_eq!(code(Error::Connect("x".into())), 5);
    assert_eq!(code(Error::Protocol("x".into())), 5);
    assert_eq!(Failure::usage("x").exit as u8, 2);
    assert_eq!((Exit::Done as u8, Exit::No as u8), (0, 1));
}

#[test]
fn help_documents_every_exit_code() {
    for exit in [Exit::Done, Exit::No, Exit::Usage, Exit::Refused, Exit::Unknown, Exit::NoConnection] {
        assert!(exit::HELP.lines().any(|line| line.starts_with(&format!("  {}  ", exit as u8))), "{exit:?}");
    }
    for command in ["put", "get", "delete", "status"] {
        let mut cli = Cli::command();
        let found = cli.find_subcommand_mut(command).expect("it is there");
        assert!(found.render_help().to_string().contains("Exit codes:"), "{command}");
    }
}
