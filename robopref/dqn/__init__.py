"""Deep Q learning on vectorised Atari games: dueling double DQN with prioritised replay, plain and certified."""
