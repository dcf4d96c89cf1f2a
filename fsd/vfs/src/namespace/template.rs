//! Path templates: `%i %I %u %h %t %T` and text, as restic's `--path-template` takes them.

use stash_repo::Snapshot;

use super::gotime::TimeLayout;

/// A parsed path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    pieces: Vec<Piece>,
    /// The template ends in `%T`: the time is the name, and the newest gets a `latest`.
    ends_in_time: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    ShortId,
    LongId,
    User,
    Host,
    Tag,
    Time,
}

/// A place of a snapshot before names are made unique: `prefix` + `time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// What comes before the time that the template ends in; everything if it ends in something else.
    pub(crate) prefix: String,
    /// The time that the template ends in.
    pub(crate) time: Option<String>,
}

impl PathTemplate {
    /// Parses a template. `%` before any other character means that character.
    ///
    /// # Errors
    /// The template has no variable (all snapshots would have one name), or a component is `.` or `..`.
    pub fn parse(template: &str) -> Result<Self, String> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chars = template.chars();
        let mut text = String::new();
        while let Some(c) = chars.next() {
            let piece = match c {
                '%' => match chars.next() {
                    Some('i') => Piece::ShortId,
                    Some('I') => Piece::LongId,
                    Some('u') => Piece::User,
                    Some('h') => Piece::Host,
                    Some('t') => Piece::Tag,
                    Some('T') => Piece::Time,
                    other => {
                        text.extend(other);
                        continue;
                    }
                },
                c => {
                    text.push(c);
                    continue;
                }
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(piece);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if pieces.iter().all(|piece| matches!(piece, Piece::Text(_))) {
            return Err(format!("{template:?} has none of %i %I %u %h %t %T, so all snapshots would have one name"));
        }
        // As it will be, not as it is written: `%.` is a dot.
        let shape: String =
            pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.as_str() } else { "x" }).collect();
        if shape.split('/').any(|component| matches!(component, "." | "..")) || shape.contains('\0') {
            return Err(format!("{template:?} has a component that is \".\" or \"..\", or a NUL"));
        }
        let ends_in_time = pieces.last() == Some(&Piece::Time);
        Ok(Self { pieces, ends_in_time })
    }

    /// Returns the directories that the template begins with whatever snapshots there are, so that they are shown empty.
    pub(crate) fn fixed_prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text.rsplit_once('/').map_or("", |(dirs, _)| dirs),
            _ => "",
        }
    }

    /// Returns the places of a snapshot: one for each combination of its tags, none if the template asks for tags and it
    /// has none.
    pub(crate) fn places(&self, snapshot: &Snapshot, layout: &TimeLayout) -> Vec<Place> {
        let time = layout.format(&snapshot.time);
        let mut prefixes = vec![String::new()];
        let pieces = if self.ends_in_time { &self.pieces[..self.pieces.len() - 1] } else { &self.pieces[..] };
        for piece in pieces {
            let value = match piece {
                Piece::Text(text) => text.clone(),
                Piece::ShortId => snapshot.id.0.short(),
                Piece::LongId => snapshot.id.to_string(),
                Piece::User => file_name(&snapshot.username),
                Piece::Host => file_name(&snapshot.hostname),
                Piece::Time => time.clone(),
                Piece::Tag => {
                    let mut tags: Vec<String> = snapshot.tags.iter().map(|tag| file_name(tag)).collect();
                    tags.dedup();
                    // A hostile snapshot with many tags and a template with many %t must not multiply without end.
                    if prefixes.len().saturating_mul(tags.len()) > MAX_PLACES {
                        return Vec::new();
                    }
                    prefixes = prefixes
                        .iter()
                        .flat_map(|prefix| tags.iter().map(move |tag| format!("{prefix}{tag}")))
                        .collect();
                    continue;
                }
            };
            for prefix in &mut prefixes {
                prefix.push_str(&value);
            }
        }
        let time = self.ends_in_time.then_some(time);
        prefixes.into_iter().map(|prefix| Place { prefix, time: time.clone() }).collect()
    }
}

/// The most places that one template gives one snapshot.
const MAX_PLACES: usize = 10_000;

/// Makes a value one component of a path: `/` and NUL become `_`, and so do names that mean something else (restic does
/// this for tags). Cut to what a file name may have.
pub(super) fn file_name(value: &str) -> String {
    match value {
        "" | "." => "_".to_owned(),
        ".." => "__".to_owned(),
        value => {
            let mut name = value.replace(['/', '\0'], "_");
            let mut end = name.len().min(200);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            name.truncate(end);
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::snapshot;

    fn places(template: &str, tags: &[&str]) -> Vec<String> {
        let mut snapshot = snapshot(1, "2024-05-06T07:08:09+02:00[+02:00]");
        snapshot.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        "ho/st".clone_into(&mut snapshot.hostname);
        "..".clone_into(&mut snapshot.username);
        PathTemplate::parse(template)
            .unwrap()
            .places(&snapshot, &TimeLayout::parse("2006"))
            .into_iter()
            .map(|place| place.prefix + "|" + place.time.as_deref().unwrap_or("-"))
            .collect()
    }

    #[test]
    fn test_places() {
        let short = snapshot(1, "2024-05-06T07:08:09+02:00[+02:00]").id.0.short();
        for (template, tags, expected) in [
            ("ids/%i", &[][..], vec![format!("ids/{short}|-")]),
            ("snapshots/%T", &[], vec!["snapshots/|2024".to_owned()]),
            ("hosts/%h/%T", &[], vec!["hosts/ho_st/|2024".to_owned()]),
            ("tags/%t/%T", &[], vec![]),
            ("tags/%t/%T", &["a"], vec!["tags/a/|2024".to_owned()]),
            ("tags/%t/%T", &["a", "b/c", ""], ["a", "b_c", "_"].map(|tag| format!("tags/{tag}/|2024")).to_vec()),
            ("%T/%h", &[], vec!["2024/ho_st|-".to_owned()]),
            ("%u-%%-%x-%T-x", &[], vec!["__-%-x-2024-x|-".to_owned()]),
            ("%t%t", &["a", "b"], ["aa", "ab", "ba", "bb"].map(|tag| format!("{tag}|-")).to_vec()),
            ("%i%", &[], vec![format!("{short}|-")]),
        ] {
            assert_eq!(places(template, tags), expected, "{template}");
        }
    }

    #[test]
    fn test_fixed_prefix() {
        for (template, expected) in
            [("ids/%i", "ids"), ("a/b/c-%i", "a/b"), ("%h/x/%T", ""), ("x%T", ""), ("/a//%i", "/a/")]
        {
            assert_eq!(PathTemplate::parse(template).unwrap().fixed_prefix(), expected, "{template}");
        }
    }

    #[test]
    fn test_refused_templates() {
        for template in ["", "snapshots", "a%%b", "../%i", "a/./%T", "%i/..", "%../%i", "%.%./%i", "%i/%./x"] {
            assert!(PathTemplate::parse(template).is_err(), "{template}");
        }
    }

    #[test]
    fn test_a_snapshot_with_countless_tags_has_no_places() {
        let tags: Vec<String> = (0..2_000).map(|tag| tag.to_string()).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        assert_eq!(places("%t/%t/%t", &tags), Vec::<String>::new());
        assert_eq!(places("%t", &tags).len(), 2_000);
    }

    proptest! {
        /// Whatever a template says and a hostile snapshot is called, a place leads nowhere but down.
        #[test]
        fn test_any_place_leads_down(
            template in r"([a-z./]|%[iIuhtT%x./]|\PC){0,12}", host: String, user: String, tags: Vec<String>,
        ) {
            let Ok(parsed) = PathTemplate::parse(&template) else { return Ok(()) };
            let mut snapshot = snapshot(1, "2024-05-06T07:08:09+02:00[+02:00]");
            (snapshot.hostname, snapshot.username, snapshot.tags) = (host, user, tags);
            for place in parsed.places(&snapshot, &TimeLayout::parse("2006")) {
                let path = place.prefix + place.time.as_deref().unwrap_or("");
                prop_assert!(!path.contains('\0'), "{}", path);
                prop_assert!(path.split('/').all(|component| component != "." && component != ".."), "{}", path);
                prop_assert!(path.starts_with(parsed.fixed_prefix()), "{}", path);
            }
        }
    }
}
