"""The model: batches of edited lists run through the layers of one bundle on one device. No cosines and no files of a run."""
