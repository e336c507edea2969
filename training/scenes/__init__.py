"""The second bundled model: scenes of two emoji from English captions, by a flow that decides early."""
