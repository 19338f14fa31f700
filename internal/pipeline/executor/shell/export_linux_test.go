package shell

// Caged tells whether the kernel bounds the processes of jobs.
func (x *Executor) Caged() bool { return x.cage.dir != "" || x.cage.nproc() > 0 }

// Scopes tells whether the kernel can keep jobs from sockets without a file.
func Scopes() bool { return landlockVersion() >= landlockScopes }

// Keeper is the process that makes the sandboxes.
func (x *Executor) Keeper() int { return x.box.keeper.p.Pid }
