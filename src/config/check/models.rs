//! The checks of `[catalog]`.

use std::path::{Path, PathBuf};

use sluicegate_compat::native::{ModelPrice, Quantization};

use super::Check;
use crate::catalog::{Builtin, Catalog, Entry, FetchProblem, ModelRef, ModelSource};
use crate::config::Place;
use crate::config::key::Key;
use crate::config::shape;
use crate::web::Hosts;

/// Where files may be: folders of this machine, and hosts that are trusted.
type Places<'a> = (&'a [PathBuf], &'a Hosts);

impl Check<'_> {
    /// The catalog, unless names are taken twice. An entry with a mistake is in it with a source that is nobody's choice,
    /// so that pools may name it.
    pub(super) fn models(&mut self, catalog: &shape::Catalog, hosts: &Hosts) -> Option<Catalog> {
        let roots = self.file_roots(&catalog.allowed_file_roots);
        let models = catalog.models.iter().enumerate();
        let entries: Vec<_> = models.map(|(index, model)| self.model(index, model, (&roots, hosts))).collect();
        match Catalog::new(entries) {
            Ok(catalog) => Some(catalog),
            Err(duplicates) => {
                for duplicate in &duplicates {
                    self.refuse(&format!("catalog.models.{}", duplicate.entry), duplicate.to_string());
                }
                None
            }
        }
    }

    fn file_roots(&mut self, roots: &[String]) -> Vec<PathBuf> {
        for (index, root) in roots.iter().enumerate() {
            let absolute = Path::new(root).is_absolute();
            self.ensure(
                absolute,
                &format!("catalog.allowed_file_roots.{index}"),
                "a folder is named by an absolute path",
            );
        }
        roots.iter().map(PathBuf::from).collect()
    }

    fn model(&mut self, index: usize, model: &shape::Model, places: Places<'_>) -> Entry {
        let key = |name: &str| format!("catalog.models.{index}.{name}");
        let price = model.price.as_ref().map_or_else(ModelPrice::default, price);
        if let Some(name) = price.excess() {
            self.refuse(&key(&format!("price.{name}")), format!("a price is 0 to {}", ModelPrice::MOST));
        }
        let limits = self.limits(&key("limits"), model.limits.as_ref().unwrap_or(&shape::Limits::default()));
        for (place, alias) in model.aliases.iter().enumerate() {
            self.name(&key(&format!("aliases.{place}")), alias);
        }
        if let Some(Err(error)) = model.digest.as_ref().map(|digest| digest.parse::<ModelRef>()) {
            self.refuse(&key("digest"), error.to_string());
        }
        let digest = model.digest.as_ref().and_then(|digest| digest.parse().ok());
        let is_digest = model.digest.is_none() || matches!(digest, Some(ModelRef::Digest(_)));
        self.ensure(is_digest, &key("digest"), "a digest is sha256: and 64 hex digits");
        let place = format!("catalog.models.{index}");
        self.ensure(model.id.is_some(), &key("id"), "each model needs an `id`");
        let id = model.id.clone().unwrap_or(place);
        self.name(&key("id"), &id);
        let source = self
            .source(&key("source"), &id, model.source.as_deref(), places)
            .unwrap_or(ModelSource::Builtin(Builtin::Chat));
        let digest = digest.map(|digest: ModelRef| digest.to_string());
        let quantization = model.quantization.as_deref().map(|name| {
            let known = Quantization::ALL.into_iter().find(|quantization| quantization.as_str() == name);
            let all = Quantization::ALL.map(|quantization| format!("\"{}\"", quantization.as_str())).join(", ");
            self.ensure(known.is_some(), &key("quantization"), &format!("one of {all}"));
            known
        });
        let quantization = quantization.flatten();
        Entry { id, aliases: model.aliases.clone(), source, digest, quantization, price, limits, guest: false }
    }

    fn name(&mut self, key: &str, name: &str) {
        match name.parse::<ModelRef>() {
            Ok(ModelRef::Name(_)) => {}
            Ok(_) => self.refuse(key, format!("{name:?} is a reference to somewhere else, not a name")),
            Err(error) => self.refuse(key, error.to_string()),
        }
    }

    fn source(&mut self, key: &str, id: &str, source: Option<&str>, (roots, hosts): Places<'_>) -> Option<ModelSource> {
        let Some(text) = source else {
            let builtin = Builtin::of(id);
            self.ensure(
                builtin.is_some(),
                key,
                "each model needs a source: hf:org/repo, file: and an absolute path, or https://",
            );
            return builtin.map(ModelSource::Builtin);
        };
        let reference = text.parse::<ModelRef>().map_err(|error| error.to_string());
        let source = reference.and_then(|it| ModelSource::from_reference(&it).map_err(|error| error.to_string()));
        let source = source.map_err(|why| self.refuse(key, why)).ok()?;
        let named = if let ModelSource::Builtin(builtin) = source { Some(builtin) } else { None };
        let own = "\"builtin\" and \"builtin-embedding\" are the models inside the program";
        self.ensure(Builtin::of(id) == named, key, own);
        if let ModelSource::Web(address) = &source
            && let Err(problem) = hosts.check(address)
        {
            self.refuse(key, FetchProblem::from(problem).to_string());
        }
        if let Some(path) = source.path() {
            let by_flag = matches!(self.layers.place(&Key::dotted(key)), Place::Flag(_));
            let allowed = by_flag || roots.iter().any(|root| path.starts_with(root));
            let why = format!("{} is in no folder of catalog.allowed_file_roots", path.display());
            self.ensure(allowed, key, &why);
        }
        Some(source)
    }
}

fn price(price: &shape::Price) -> ModelPrice {
    let &shape::Price { input_per_mtok, cached_input_per_mtok, output_per_mtok, engine_second } = price;
    ModelPrice { input_per_mtok, cached_input_per_mtok, output_per_mtok, engine_second }
}
