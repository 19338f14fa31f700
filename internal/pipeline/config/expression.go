package config

// expression checks the text of a condition.
func (v value) expression() {}
