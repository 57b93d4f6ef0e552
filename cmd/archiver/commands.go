package main

import "github.com/spf13/cobra"

// commands are the verbs, in the order in which help lists them.
func (c *cli) commands() []*cobra.Command {
	return []*cobra.Command{
		c.migrateCommand(),
		c.checkCommand(),
		c.planCommand(),
		c.workCommand(),
		c.runCommand(),
		c.configCommand(),
		c.versionCommand(),
	}
}
