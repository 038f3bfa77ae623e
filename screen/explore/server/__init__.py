"""The page over HTTP: who may ask (guard), what is answered (app), files that stream (downloads). It listens nowhere itself."""
