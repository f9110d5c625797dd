//! The committed schemas are what the binary prints, so that nobody reads an outdated one.

mod support;

use support::{repository, trainyard};

#[test]
fn committed_schemas_are_current() {
    let folder = repository("schemas");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("schemas/") {
        let path = entry.expect("an entry").path();
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        let name = file.strip_suffix(".schema.json").expect("NAME.schema.json").to_owned();
        let output = trainyard().args(["schema", &name]).output().expect("the binary runs");
        assert!(output.status.success(), "schemas/{file}: the binary knows no such schema");
        let committed = std::fs::read_to_string(&path).expect("text");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        // Not assert_eq: the two texts are long, and the remedy is one command.
        assert!(
            committed == printed,
            "schemas/{file} is outdated: trainyard schema {name} > schemas/{file}"
        );
        names.push(name);
    }
    // Every schema that the binary has is committed.
    let help = trainyard().args(["schema", "--help"]).output().expect("the binary runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    for line in help.lines().filter_map(|line| line.trim().strip_prefix("- ")) {
        let name = line.split(':').next().unwrap_or_default();
        assert!(names.iter().any(|n| n == name), "schemas/{name}.schema.json is missing");
    }
}
