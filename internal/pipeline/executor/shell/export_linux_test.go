package shell

// Caged tells whether the kernel bounds the processes of jobs.
func (x *Executor) Caged() bool { return x.cage.dir != "" || x.cage.nproc() > 0 }
