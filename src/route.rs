//! The one route table: a method and a path select a constant, and nothing else of a request does.

use crate::http::Method::{self, Get, Head, Post};
use crate::ipmi::{
    Change::{PowerCycle, PowerOff, PowerOn, PowerReset, PowerSoft},
    Command::{self, Change, Read},
    Read::PowerStatus,
};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Whether this program serves. Needs no key and no BMC.
    Health,
    Power(Command),
}

struct Row {
    method: Method,
    path: &'static str,
    route: Route,
}

const fn row(method: Method, path: &'static str, route: Route) -> Row {
    Row { method, path, route }
}

const ROUTES: &[Row] = &[
    row(Get, "/health", Route::Health),
    row(Get, "/power/status", Route::Power(Read(PowerStatus))),
    row(Post, "/power/on", Route::Power(Change(PowerOn))),
    row(Post, "/power/off", Route::Power(Change(PowerSoft))),
    row(Post, "/power/force-off", Route::Power(Change(PowerOff))),
    row(Post, "/power/cycle", Route::Power(Change(PowerCycle))),
    row(Post, "/power/reset", Route::Power(Change(PowerReset))),
];

/// Why there is no such route.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRoute {
    UnknownPath,
    /// The path exists; its methods, as `Allow` names them.
    WrongMethod {
        allow: &'static str,
    },
}

/// Exactly the documented paths match: no trailing slash, no percent-encoding, no other case.
///
/// # Errors
/// `UnknownPath`, or `WrongMethod` for a known path.
pub fn find(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let row = ROUTES.iter().find(|row| row.path == path).ok_or(NoRoute::UnknownPath)?;
    // RFC 9110, 9.3.2: HEAD is GET without the body.
    let asked = if *method == Head { &Get } else { method };
    if *asked == row.method {
        Ok(row.route)
    } else {
        Err(NoRoute::WrongMethod { allow: if row.method == Get { "GET, HEAD" } else { "POST" } })
    }
}

/// The last word of a command's path: what a list of commands calls it.
pub fn word(command: Command) -> &'static str {
    let row = ROUTES.iter().find(|row| row.route == Route::Power(command));
    row.map_or("", |row| &row.path["/power/".len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_documented_paths_match() {
        for path in [
            "",
            "/",
            "*",
            "//health",
            "/health/",
            "/Health",
            "/%68ealth",
            "/health;a",
            "/./health",
            "/power",
            "/power/",
            "/power/status/",
            "/power/../health",
            "/power//on",
            "/power/on%00",
            "/POWER/ON",
            "/power/soft",
        ] {
            assert_eq!(find(&Get, path), Err(NoRoute::UnknownPath), "{path:?}");
        }
    }

    #[test]
    fn a_get_never_acts() {
        for row in ROUTES {
            for method in [Get, Head] {
                let acts = matches!(find(&method, row.path), Ok(Route::Power(Change(_))));
                assert!(!acts, "{method} {}", row.path);
            }
        }
    }

    #[test]
    fn every_other_method_is_told_the_right_one() {
        for row in ROUTES {
            let allow = if row.method == Get { "GET, HEAD" } else { "POST" };
            for method in ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "post", "BREW"] {
                let method = method.parse().unwrap();
                assert_eq!(
                    find(&method, row.path),
                    Err(NoRoute::WrongMethod { allow }),
                    "{method} {}",
                    row.path
                );
            }
        }
    }

    #[test]
    fn the_readme_shows_the_same_routes() {
        let rows: Vec<_> = ROUTES
            .iter()
            .map(|row| match row.route {
                Route::Health => format!("| `{} {}` | no | – |", row.method, row.path),
                Route::Power(command) => {
                    format!("| `{} {}` | yes | `{}` |", row.method, row.path, command.name())
                }
            })
            .collect();
        let readme = include_str!("../README.md");
        let documented: Vec<_> = readme
            .lines()
            .filter(|line| line.starts_with("| `GET /") || line.starts_with("| `POST /"))
            .collect();
        assert_eq!(documented.len(), rows.len(), "{documented:#?}");
        for (documented, row) in documented.iter().zip(rows) {
            assert!(documented.starts_with(&row), "the README has {documented}, the table {row}");
        }
    }
}
