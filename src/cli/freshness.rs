//! How fresh a read must be, as a person says it: `--consistency`, `--max-age`, `--token`; and what the answer says of itself.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use ringbeam_sdk::{Client, Consistency, GetOptions, Token};
use serde_json::json;

use super::exit::Failure;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Freshness {
    /// Sees every write that was acknowledged before.
    Linearizable,
    /// Sees what the session has written and seen (`--token`), at any node.
    Session,
    /// At most so old (`--max-age`), at any node that can show it.
    Bounded,
    /// What the nearest node has; may be old.
    Local,
}

/// The arguments of a command that reads.
#[derive(Debug, Args)]
pub struct FreshnessArgs {
    /// How fresh the answer must be; otherwise as `ringbeam namespace set` has said of the namespace, or linearizable.
    #[arg(long, value_enum)]
    consistency: Option<Freshness>,
    /// For bounded: how old the answer may be, as in 250ms or 1.5s.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    max_age: Option<Duration>,
    /// For bounded: answer all the same when no node can show that, and say so.
    #[arg(long)]
    stale_ok: bool,
    /// For session: what it has seen so far, as `token` in the --json of an earlier command.
    #[arg(long, value_name = "TOKEN", value_parser = parse_token)]
    token: Option<Token>,
}

impl FreshnessArgs {
    /// The client in a namespace and in the session of the token, and how it is to read.
    pub async fn apply(&self, client: Client, namespace: &str) -> Result<(Client, GetOptions), Failure> {
        let client = client.namespace(namespace);
        let client = match &self.token {
            Some(token) if self.consistency == Some(Freshness::Session) => {
                client.with_token(token).map_err(|why| Failure::usage(format!("--token: {why}")))?
            }
            Some(_) => return Err(Failure::usage("--token is for --consistency session")),
            None => client,
        };
        let said = self.consistency.unwrap_or(Freshness::Linearizable);
        let said = consistency(said, self.max_age, self.stale_ok).map_err(Failure::usage)?;
        let consistency = match self.consistency {
            Some(_) => said,
            // As any node knows it: who may read without a quorum does not need one to find that out.
            None => client.policy_with(namespace, Consistency::Local).await?.map_or(said, |policy| policy.consistency),
        };
        Ok((client, GetOptions { consistency: Some(consistency), ..GetOptions::default() }))
    }
}

/// Such an answer is worth a word about how it came about.
pub fn is_of_any_node(options: &GetOptions) -> bool {
    options.consistency.is_some_and(|consistency| consistency != Consistency::Linearizable)
}

/// What the words together mean; the error says which do not fit.
pub fn consistency(freshness: Freshness, max_age: Option<Duration>, stale_ok: bool) -> Result<Consistency, String> {
    let bounded = freshness == Freshness::Bounded;
    if (max_age.is_some() || stale_ok) && !bounded {
        return Err("--max-age and --stale-ok are for --consistency bounded".into());
    }
    Ok(match (freshness, max_age) {
        (Freshness::Linearizable, _) => Consistency::Linearizable,
        (Freshness::Local, _) => Consistency::Local,
        (Freshness::Session, _) => Consistency::Session,
        (Freshness::Bounded, Some(age_max)) => Consistency::Bounded { age_max, stale_ok },
        (Freshness::Bounded, None) => return Err("--consistency bounded needs --max-age, as in --max-age 250ms".into()),
    })
}

/// A time with its unit, whole milliseconds of it.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: a number with ms or s, as in 250ms or 1.5s, from 1ms to a day");
    let (number, ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        (None, None) => return Err(wrong()),
    };
    let ms = number.trim().parse::<f64>().map_err(|_| wrong())? * ms;
    if !(1.0..=86_400_000.0).contains(&ms) {
        return Err(wrong());
    }
    Ok(Duration::from_millis(ms as u64))
}

fn parse_token(text: &str) -> Result<Token, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|why| format!("no session token: {why}"))?;
    Token::from_bytes(&bytes).map_err(|why| why.to_string())
}

/// A client's session as the argument of a later command.
pub fn token_text(client: &Client) -> String {
    URL_SAFE_NO_PAD.encode(client.session_token().to_bytes())
}

/// What an answer says of itself, into the JSON about it.
pub fn add_age(json: &mut serde_json::Value, client: &Client, age: Option<Duration>, stale: bool) {
    json["age_ms"] = age.map_or(serde_json::Value::Null, |age| json!(age.as_millis() as u64));
    json["stale"] = stale.into();
    json["token"] = token_text(client).into();
}

/// Says on standard error that an answer is older than asked for.
pub fn warn_if_stale(age: Option<Duration>, stale: bool) {
    match age {
        Some(age) if stale => eprintln!("ringbeam: older than asked for: up to {} ms", age.as_millis()),
        None if stale => eprintln!("ringbeam: older than asked for: nobody knows how old"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_a_unit_and_is_a_millisecond_at_least() {
        assert_eq!(parse_age("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_age("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["250", "0ms", "0.5ms", "-1s", "s", "2m", "100000s", "nans", ""] {
            assert!(parse_age(wrong).is_err_and(|why| why.contains("250ms or 1.5s")), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let age = Some(Duration::from_millis(9));
        let bounded = Consistency::Bounded { age_max: Duration::from_millis(9), stale_ok: true };
        assert_eq!(consistency(Freshness::Bounded, age, true), Ok(bounded));
        assert_eq!(consistency(Freshness::Session, None, false), Ok(Consistency::Session));
        assert!(consistency(Freshness::Bounded, None, false).is_err_and(|why| why.contains("--max-age")));
        assert!(consistency(Freshness::Local, age, false).is_err_and(|why| why.contains("bounded")));
        assert!(consistency(Freshness::Local, None, true).is_err_and(|why| why.contains("--stale-ok")));
        assert!(parse_token("no!").is_err() && parse_token("AAAA").is_err_and(|why| why.contains("session token")));
    }
}
