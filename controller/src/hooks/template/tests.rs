use proptest::prelude::*;

use super::*;
use crate::hooks::summary::Summary;

fn data(phase: &str) -> Value {
    Summary {
        name: "nightly-1".to_owned(),
        namespace: "shop".to_owned(),
        target_name: "db".to_owned(),
        phase: if phase == "Failed" { "Failed" } else { "Succeeded" },
        error: if phase == "Failed" { "the \"disk\" is <full>".to_owned() } else { String::new() },
        retry_left: 2,
        ..Summary::default()
    }
    .value()
}

fn render(text: &str) -> Result<String, String> {
    let template = Template::parse(text, &data("Failed")).map_err(|error| error.to_string())?;
    template.render(&data("Failed")).map_err(|error| error.to_string())
}

#[test]
fn test_templates_mean_what_they_mean_in_go() {
    for (text, expected) in [
        (" as it is } ", " as it is } "),
        (" {{ .Name }} ", "nightly-1"),
        ("{{.Namespace}}/{{$.Target.Name}}", "shop/db"),
        ("a {{- .Name -}} b", "anightly-1b"),
        ("a {{/* not shown */}} b", "a  b"),
        ("a {{- /* not shown */ -}} b", "ab"),
        (
            "{{if eq .Status.Phase `Succeeded`}}well{{else}}badly: {{.Status.Error}}{{end}}",
            "badly: the \"disk\" is <full>",
        ),
        ("{{ if eq .RetryLeft 0 }}a{{ else if gt .RetryLeft 1 }}b{{ else }}c{{ end }}", "b"),
        ("{{ if and .Name (not .Status.Error) }}a{{ end }}x", "x"),
        ("{{ $x := .Name }}{{ $x = upper $x }}{{ $x }}", "NIGHTLY-1"),
        ("{{ $x := \"a\" }}{{ if true }}{{ $x := \"b\" }}{{ $x }}{{ end }}{{ $x }}", "ba"),
        ("{{ $x := \"a\" }}{{ if true }}{{ $x = \"b\" }}{{ end }}{{ $x }}", "b"),
        ("{{ .Name | upper | printf \"%s %s\" \"a\" | quote }}", "\"a NIGHTLY-1\""),
        ("{{ printf \"%s %q %d %v%%\" .Name \"a\\\"b\" .RetryLeft true }}", "nightly-1 \"a\\\"b\" 2 true%"),
        ("{{ .Status.Error | toJson }}", "\"the \\\"disk\\\" is \\u003cfull\\u003e\""),
        ("{{ toJson (dict \"b\" 1 \"a\" (list .Name nil)) }}", "{\"a\":[\"nightly-1\",null],\"b\":1}"),
        ("{{ $m := dict \"a\" \"x\" }}{{ $m.a }}{{ $m.b }}", "x<no value>"),
        ("{{ default \"none\" .Status.Duration }}", "none"),
        ("{{ trunc 4 .Name }}{{ trunc -2 .Name }}", "nigh-1"),
        ("{{ ternary \"a\" \"b\" (eq .Name \"x\" \"nightly-1\") }}", "a"),
        ("{{ replace \"-\" \"_\" .Name }} {{ contains \"ight\" .Name }}", "nightly_1 true"),
        ("{{ urlquery \"a b&c\" }} {{ b64enc \"ab\" }}", "a+b%26c YWI="),
        ("{{ \"}}\" }}", "}}"),
        ("{{ toJson .Invoker }}", "{\"apiGroup\":\"\",\"kind\":\"\",\"name\":\"\"}"),
    ] {
        assert_eq!(render(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn test_the_templates_of_the_guides() {
    let body = r#"{{- $msg := dict  "type" "mrkdwn" "text" (printf ":x: Backup failed for %s/%s Reason: %s." .Namespace .Target.Name .Status.Error) -}}
        { "blocks": [ { "type": "section", "text": {{ toJson $msg }} } ] }
    "#;
    let filled: serde_json::Value = serde_json::from_str(&render(body).unwrap()).unwrap();
    let text = &filled["blocks"][0]["text"];
    assert_eq!(text["text"], ":x: Backup failed for shop/db Reason: the \"disk\" is <full>.");
    assert_eq!(text["type"], "mrkdwn");
}

#[test]
fn test_what_is_not_understood_is_refused_by_name() {
    for (text, expected) in [
        ("{{ .Target.ApiVersion }}", "there is no .Target.ApiVersion; there are APIVersion, Kind, Name, Namespace"),
        ("{{ .Name.First }}", "there is no .Name.First"),
        ("{{ env \"HOME\" }}", "the function env is not supported; there are and, "),
        ("{{ range .Name }}{{ end }}", "range is not supported"),
        ("{{ with .Name }}{{ end }}", "with is not supported"),
        ("{{ now }}", "the function now"),
        ("{{ $x }}", "the variable $x is not set before"),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", "the variable $x is not set before"),
        ("{{ $x = 1 }}", "the variable $x is not set before"),
        ("{{ .Name", "an action is not closed"),
        ("{{ }}", "a value is missing"),
        ("{{ if true }}a", "an if is not ended"),
        ("{{ if true }}{{ else }}{{ else }}{{ end }}", "an else follows an else"),
        ("{{ else }}", "an else stands without if"),
        ("{{ end }}", "an end stands without if"),
        ("{{ upper }}", "upper is given 0 arguments"),
        ("{{ upper .Name .Name }}", "upper is given 2 arguments"),
        ("{{ upper lower .Name }}", "lower: a call among arguments needs brackets"),
        ("{{ upper .RetryLeft }}", "upper: it takes a text, not a number"),
        ("{{ eq .RetryLeft \"0\" }}", "eq: a number and a text cannot be compared"),
        ("{{ printf .Name }}", "printf: the format must be a text"),
        ("{{ printf \"%5s\" .Name }}", "printf: there are %s"),
        ("{{ printf \"%s\" }}", "printf: 1 verbs in \"%s\", and 0 values"),
        ("{{ printf \"%d\" .Name }}", "printf: %d does not take a text"),
        ("{{ .Status }}", "a record cannot be printed: use toJson"),
        ("{{ (.Status).Phase }}", "a field of a pipeline in brackets"),
        ("{{ 1.5 }}", "\"1.5\" is no whole number"),
        ("{{ \"a\\x\" }}", "the escape \\x"),
        ("{{ \"a }}", "a text is not closed"),
        ("{{ /* a }}", "a comment is not closed"),
        ("{{ .Name | .Name }}", "a value is called"),
        ("{{ .Name .Name }}", "a value is called"),
        ("{{ (upper .Name }}", "a bracket is not closed"),
        ("{{ upper .Name) }}", ") is not understood here"),
        ("{{ ! }}", "'!' is not understood"),
    ] {
        let error = render(text).unwrap_err();
        assert!(error.starts_with("template: "), "{text}: {error}");
        assert!(error.contains(expected), "{text}: {error}");
    }
    let deep = format!("{}{}", "{{ if true }}".repeat(40), "{{ end }}".repeat(40));
    assert!(render(&deep).unwrap_err().contains("deeper than 32"));
    let deep = format!("{{{{ {} .Name {} }}}}", "(upper ".repeat(4000), ")".repeat(4000));
    assert!(render(&deep).unwrap_err().contains("deeper than 32"));
}

proptest! {
    #[test]
    fn test_no_text_panics(text in "([{}()|.$a-cé\"`=: -]|\\{\\{|\\}\\}|if |else|end|eq|printf|%s|\\.Name|trunc|-1|/\\*|\\*/){0,30}") {
        let _outcome = render(&text);
    }
}

#[test]
fn test_documentation_lists_every_function_and_no_other() {
    let documentation = include_str!("../../../../docs/hooks.md");
    let listed = documentation.split('`').find(|text| text.starts_with("and b64enc")).unwrap();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), functions::names());
}
