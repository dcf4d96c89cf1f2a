//! How rules of the API are written into schemas.

use kube::core::Rule;

/// A rule in CEL, and what it says when it refuses. `docs/compatibility.md` lists them all.
pub(crate) fn rule(expression: impl Into<String>, message: &str) -> Rule {
    Rule::new(expression).message(message)
}

/// The expression that holds when exactly one of `fields` is there.
pub(crate) fn exactly_one<S: AsRef<str>>(fields: &[S]) -> String {
    let present: Vec<String> = fields.iter().map(|field| format!("has(self.{})", field.as_ref())).collect();
    format!("[{}].filter(x, x).size() == 1", present.join(", "))
}

/// The expression that holds when `path` is what it was, absence included. `path` starts with a dot.
///
/// Of `has(self.a.b)` CEL asks that `self.a` is there, so a parent is asked first.
pub(crate) fn unchanged(path: &str) -> String {
    let has = |of: &str| {
        let parents = path.match_indices('.').skip(1).map(|(end, _)| &path[..end]).chain([path]);
        let steps: Vec<String> = parents.map(|step| format!("has({of}{step})")).collect();
        if steps.len() > 1 { format!("({})", steps.join(" && ")) } else { steps.concat() }
    };
    let (new, old) = (has("self"), has("oldSelf"));
    format!("{new} == {old} && (!{new} || self{path} == oldSelf{path})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_exactly_one_counts_what_is_there() {
        assert_eq!(exactly_one(&["a", "b"]), "[has(self.a), has(self.b)].filter(x, x).size() == 1");
    }

    #[test]
    fn test_unchanged_asks_for_parents_first() {
        assert_eq!(unchanged(".a"), "has(self.a) == has(oldSelf.a) && (!has(self.a) || self.a == oldSelf.a)");
        let inner = unchanged(".a.b");
        assert!(inner.starts_with("(has(self.a) && has(self.a.b)) == (has(oldSelf.a) && has(oldSelf.a.b))"), "{inner}");
    }
}
