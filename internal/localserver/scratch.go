package localserver

// Scratch is a private temporary directory for what belongs to the servers of one
// owner, such as their configuration and logs. It gets the care that their data
// gets: it goes when its owner removes it, or after the owner's death at the next
// start of any owner under the same user.
type Scratch struct{ run *runDir }

// NewScratch creates a scratch directory that is named after kind ("demo"). The
// account that PostgreSQL runs under may pass through it.
func NewScratch(kind string) (*Scratch, error) {
	run, err := newRunDir(kind)
	if err != nil {
		return nil, err
	}
	return &Scratch{run: run}, nil
}

// Path is the directory's absolute path.
func (s *Scratch) Path() string { return s.run.Path }

// Remove deletes the directory with all that is in it.
func (s *Scratch) Remove() error { return s.run.Remove() }
