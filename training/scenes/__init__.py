"""The second bundled model: scenes of two emoji from English captions, by a text-conditioned flow that decides early."""
