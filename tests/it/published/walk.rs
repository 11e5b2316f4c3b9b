//! Tries every published field of a request, and says what becomes of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::endpoints::Endpoint;
use super::record::{Fields, Record, Sample, join};
use super::trial::{Outcome, run, without_places};
use crate::harness::Gate;
use crate::openapi::documents::Document;
use crate::openapi::places::places_to;

/// Steps to a documented field: the text of the result of a call in a message is 7 deep.
const DEEPEST: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Honoured,
    Refused,
    Ignored,
}

/// A field as all objects that may stand there have it (`messages[].name`), or one of its words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub path: String,
    pub word: Option<String>,
}

/// What was found of one request: by subject, what becomes of it in each object that has it (`messages[user].name`).
#[derive(Default)]
pub struct Report {
    pub findings: BTreeMap<Subject, BTreeMap<String, Verdict>>,
    /// What is wrong, a sentence each.
    pub defects: Vec<String>,
    /// Exceptions that were needed.
    used: BTreeSet<&'static str>,
}

/// An object of a request whose fields are to be tried.
struct Spot<'a> {
    owner: String,
    fields: &'a Fields,
    path: String,
    full: String,
    /// Where it is in `body`, as a JSON pointer.
    pointer: String,
    body: Value,
    inside: Vec<String>,
}

/// A field at its spot.
struct Place<'a> {
    spot: &'a Spot<'a>,
    name: &'a str,
    path: String,
    full: String,
    required: bool,
}

/// A field with one value, and what became of it.
struct Try {
    sample: Sample,
    body: Value,
    pointer: String,
    outcome: Outcome,
}

impl Try {
    /// Whether the answer says that this has no effect.
    fn is_named(&self, path: &str) -> bool {
        let Outcome::Taken { ignored, .. } = &self.outcome else { return false };
        let word = self.sample.label.as_deref().unwrap_or_default();
        let names = [path.to_owned(), format!("{path}[]"), format!("{path}.{word}"), format!("{path}[].{word}")];
        ignored.iter().any(|name| names.contains(name))
    }

    fn native(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Taken { native, .. } => Some(native),
            _ => None,
        }
    }
}

/// Tries every field of the request.
pub async fn walk(gate: &Gate, record: &Record, endpoint: &Endpoint) -> Report {
    let mut report = Report::default();
    let fields = &record.requests[endpoint.name];
    let body = (endpoint.base)();
    let none = String::new();
    let mut spots = vec![Spot {
        owner: none.clone(),
        fields,
        path: none.clone(),
        full: none.clone(),
        pointer: none,
        body,
        inside: Vec::new(),
    }];
    // Objects whose presence alone changes nothing.
    let mut silent = Vec::new();
    let documented = Documented::of(endpoint);
    while let Some(spot) = spots.pop() {
        let label = record.objects.get(&spot.owner).and_then(|_| record.labels(&spot.owner)).map(|(field, _)| field);
        for (name, field) in
            spot.fields.iter().filter(|(name, field)| Some(name.as_str()) != label && !field.is_fixed())
        {
            let (path, full) = (join(&spot.path, name), join(&spot.full, name));
            let place = Place { spot: &spot, name, path, full, required: field.required };
            let samples = record.samples(&spot.owner, name, field, endpoint.good);
            let (absent, tries) = try_all(gate, endpoint, &place, samples).await;
            if decide(&mut report, endpoint, &place, absent.as_ref(), &tries) {
                silent.push((place.path.clone(), place.full.clone()));
            }
            for one in &tries {
                if one.native().is_some() && !one.is_named(&place.path) {
                    documented.check(&place, one, &mut report);
                    spots.extend(inner(record, &place, one));
                }
            }
        }
    }
    for (path, full) in silent {
        report.resolve(&path, &full);
    }
    for (exception, _) in endpoint.exceptions {
        if !report.used.contains(exception) {
            report.defects.push(format!("the exception {exception} is not needed"));
        }
    }
    report
}

/// The request without the field, where it may be left out, and with each of its values.
async fn try_all(
    gate: &Gate,
    endpoint: &Endpoint,
    place: &Place<'_>,
    samples: Vec<Sample>,
) -> (Option<Outcome>, Vec<Try>) {
    let mut tries = Vec::new();
    for sample in samples {
        let (mut body, mut pointer) = (place.spot.body.clone(), place.spot.pointer.clone());
        body.pointer_mut(&pointer).unwrap()[place.name] = sample.value.clone();
        (endpoint.complete)(&place.path, sample.object.as_deref(), &mut body, &mut pointer);
        let outcome = run(gate, endpoint, &body).await;
        tries.push(Try { sample, body, pointer, outcome });
    }
    let mut absent = None;
    if let Some(one) = tries.first().filter(|_| !place.required) {
        let mut body = one.body.clone();
        body.pointer_mut(&one.pointer).unwrap().as_object_mut().unwrap().remove(place.name);
        absent = Some(run(gate, endpoint, &body).await);
    }
    (absent, tries)
}

/// Writes down what becomes of a field and of its words. Says whether that depends on the fields inside it.
fn decide(
    report: &mut Report,
    endpoint: &Endpoint,
    place: &Place<'_>,
    absent: Option<&Outcome>,
    tries: &[Try],
) -> bool {
    let absent = absent.and_then(|outcome| match outcome {
        Outcome::Taken { native, .. } => Some(native.as_str()),
        _ => None,
    });
    let silent = |one: &&Try| one.native().is_some() && !one.is_named(&place.path);
    let natives: BTreeSet<_> = tries.iter().filter(silent).filter_map(Try::native).chain(absent).collect();
    let (mut refused, mut named, mut excused) = (0, 0, false);
    for one in tries {
        let word = one.sample.label.clone();
        let shown = word.as_ref().map_or(place.full.clone(), |word| format!("{}: {word}", place.full));
        let verdict = match &one.outcome {
            Outcome::Mistaken(answer) => {
                report.defects.push(format!("{shown}: {} is not understood: {answer}", one.sample.value));
                continue;
            }
            Outcome::Refused { param } => {
                let param = without_places(param);
                if param != place.path
                    && !param.starts_with(&format!("{}.", place.path))
                    && !param.starts_with(&format!("{}[", place.path))
                {
                    report.defects.push(format!("{shown} is refused, and {param} named"));
                }
                refused += 1;
                Verdict::Refused
            }
            Outcome::Taken { .. } if one.is_named(&place.path) => {
                named += 1;
                Verdict::Ignored
            }
            Outcome::Taken { native, .. } => {
                // A word that is the same as none at all is the default, or is dropped in silence.
                if one.sample.object.is_none() && word.is_some() && absent == Some(native.as_str()) {
                    let subject = format!("{}: {}", place.path, word.as_deref().unwrap_or_default());
                    match endpoint.exception(&subject).or_else(|| endpoint.exception(&place.path)) {
                        Some(exception) => {
                            report.used.insert(exception);
                            excused = true;
                        }
                        None => report.defects.push(format!("{shown} is taken, and changes nothing")),
                    }
                }
                Verdict::Honoured
            }
        };
        if word.is_some() {
            report.add(&place.path, word, &place.full, verdict);
        }
    }
    let objects = tries.iter().any(|one| silent(&one) && one.sample.object.is_some());
    let verdict = if natives.len() > 1 || excused {
        Verdict::Honoured
    } else if refused > 0 && refused + named == tries.len() {
        Verdict::Refused
    } else if named > 0 {
        Verdict::Ignored
    } else if let Some(exception) = endpoint.exception(&place.path) {
        report.used.insert(exception);
        Verdict::Honoured
    } else if objects {
        return true;
    } else {
        report.defects.push(format!("{} is taken, and changes nothing", place.full));
        return false;
    };
    report.add(&place.path, None, &place.full, verdict);
    false
}

/// The objects that a good value holds.
fn inner<'a>(record: &'a Record, place: &Place<'_>, one: &Try) -> Option<Spot<'a>> {
    let object = one.sample.object.as_ref().filter(|object| !place.spot.inside.contains(object))?;
    let list = if one.sample.listed { "[]" } else { "" };
    let label = match &one.sample.label {
        Some(label) => format!("[{label}]"),
        None => list.to_owned(),
    };
    let mut pointer = format!("{}/{}", one.pointer, place.name);
    let mut value = one.body.pointer(&pointer).unwrap();
    while let Some(list) = value.as_array() {
        // What it goes with may stand before and behind it.
        let is_it = |element: &&Value| match (record.labels(object), &one.sample.label) {
            (Some((field, _)), Some(label)) => element.get(field).is_some_and(|word| word == label.as_str()),
            _ => true,
        };
        let at = list.iter().rposition(|element| is_it(&element)).unwrap_or(list.len() - 1);
        pointer = format!("{pointer}/{at}");
        value = &value[at];
    }
    Some(Spot {
        owner: object.clone(),
        fields: &record.objects[object],
        path: format!("{}{list}", place.path),
        full: format!("{}{label}", place.full),
        pointer,
        body: one.body.clone(),
        inside: [place.spot.inside.as_slice(), std::slice::from_ref(object)].concat(),
    })
}

impl Report {
    fn add(&mut self, path: &str, word: Option<String>, full: &str, verdict: Verdict) {
        let subject = Subject { path: path.to_owned(), word };
        let known = self.findings.entry(subject).or_default().insert(full.to_owned(), verdict);
        if known.is_some_and(|known| known != verdict) {
            self.defects.push(format!("{full} is {verdict:?} in one object and not in another of the same name"));
        }
    }

    /// An object that changes nothing by itself is what the best of its fields is.
    fn resolve(&mut self, path: &str, full: &str) {
        let below = |subject: &Subject| {
            let rest = subject.path.strip_prefix(path).filter(|rest| rest.starts_with(['.', '[']));
            rest.is_some() && subject.word.is_none()
        };
        let best =
            self.findings.iter().filter(|(subject, _)| below(subject)).flat_map(|(_, found)| found.values()).min();
        match best.copied() {
            Some(verdict) => self.add(path, None, full, verdict),
            None => self.defects.push(format!("{full} is taken, and changes nothing")),
        }
    }
}

/// What the OpenAPI document says of a request.
struct Documented {
    document: Document,
    schema: Value,
    paths: BTreeSet<String>,
}

impl Documented {
    fn of(endpoint: &Endpoint) -> Self {
        let [_, document] = Document::both();
        let schema = json!({"$ref": format!("#/components/schemas/{}", endpoint.schema)});
        let paths = documented_paths(&document, &schema);
        Self { document, schema, paths }
    }

    /// What is honoured is documented, with the value.
    fn check(&self, place: &Place<'_>, one: &Try, report: &mut Report) {
        if !self.paths.contains(&place.path) {
            report.defects.push(format!("{} is honoured, and not documented", place.full));
        }
        let mistakes = self.document.mistakes(&self.schema, &one.body);
        if !mistakes.is_empty() {
            report
                .defects
                .push(format!("{}: {} is taken, and not documented: {mistakes:?}", place.full, one.sample.value));
        }
    }
}

/// The fields of a documented request, however deep, as `messages[].content`.
pub fn documented_paths(document: &Document, schema: &Value) -> BTreeSet<String> {
    places_to(DEEPEST, document, schema).iter().map(|place| without_places(&place.to_string())).collect()
}
