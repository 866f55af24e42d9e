//! The end of all writing, noted in the file's label.

use cpl_core::store::{Cursor, Error, Seal, SealId};

use crate::disk::{LABEL, put_fact};
use crate::engine::Engine;
use crate::format::Label;

impl Engine {
    /// Whether the file has this label.
    pub(crate) fn is(&self, label: &Label) -> bool {
        self.label == *label
    }

    /// Whether the file is not complete.
    pub(crate) const fn is_filling(&self) -> bool {
        matches!(self.label.seal, Some(Seal::Filling(_)))
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        matches!(self.label.seal, Some(Seal::Moved(_)))
    }

    /// Ends all writing; the answer is after all of it.
    pub(crate) fn seal(&mut self, seal: SealId) -> Result<Cursor, Error> {
        match self.label.seal {
            Some(Seal::Moved(by)) if by == seal => {},
            Some(_) => return Err(Error::sealed_by_another()),
            None => self.relabel(Some(Seal::Moved(seal)))?,
        }
        let index = self.shared.index();
        Ok(index.cursor(index.head))
    }

    /// Takes writes again, or from now on.
    pub(crate) fn unseal(&mut self) -> Result<Cursor, Error> {
        if self.label.seal.is_some() {
            self.relabel(None)?;
        }
        let index = self.shared.index();
        Ok(index.cursor(index.head))
    }

    fn relabel(&mut self, seal: Option<Seal>) -> Result<(), Error> {
        self.recover_if_due();
        if let Some(poison) = self.poisoned() {
            return Err(poison);
        }
        let label = Label { seal, ..self.label };
        let written = self
            .disk
            .write(|transaction| put_fact(transaction, LABEL, &label));
        if let Err(failed) = written {
            let failure = failed.explain("seal the store, or take its seal off");
            self.fail(&failure);
            return Err(failure);
        }
        self.label = label;
        self.tell_refusal();
        Ok(())
    }
}
