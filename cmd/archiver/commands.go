package main

import "github.com/spf13/cobra"

// commands are the verbs, in the order in which help lists them.
func (c *cli) commands() []*cobra.Command {
	return []*cobra.Command{
		c.demoCommand(),
		c.migrateCommand(),
		c.checkCommand(),
		c.planCommand(),
		c.workCommand(),
		c.runCommand(),
		c.statusCommand(),
		c.healthCommand(),
		c.jobsCommand(),
		c.pauseCommand(),
		c.resumeCommand(),
		c.lsCommand(),
		c.catCommand(),
		c.benchCommand(),
		c.uiCommand(),
		c.configCommand(),
		c.versionCommand(),
	}
}
