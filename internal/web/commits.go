package web

// CommitText is what is shown of a commit beside an app.
type CommitText struct{ Author, Title string }

// Wanted has an element when there is a commit of an app of which nothing is known yet.
func (i *Index) Wanted() <-chan struct{} { return i.wanted }

// Ask has [Index.Wanted] get an element.
func (i *Index) Ask() {
	select {
	case i.wanted <- struct{}{}:
	default:
	}
}

// Unknown gives commits of apps, at most so many, of which nothing is known yet.
func (i *Index) Unknown(most int) []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	var out []string
	asked := map[string]bool{}
	for _, l := range i.apps {
		if len(out) == most {
			break
		}
		if _, known := i.commits[l.SHA]; l.SHA != "" && !known && !asked[l.SHA] {
			asked[l.SHA] = true
			out = append(out, l.SHA)
		}
	}
	return out
}

// Know takes in what commits say, by their SHAs. Apps at them are told of.
func (i *Index) Know(found map[string]CommitText) {
	if len(found) == 0 {
		return
	}
	var news []AppChange
	i.mu.Lock()
	for sha, c := range found {
		i.commits[sha] = c
	}
	for at, l := range i.order {
		c, ok := found[l.SHA]
		if !ok || l.Author == c.Author && l.Title == c.Title {
			continue
		}
		a := l.App
		a.Author, a.Title = c.Author, c.Title
		l = listedOf(a)
		i.apps[a.ID], i.order[at] = l, l
		news = append(news, AppChange{ID: a.ID, State: a.State, Revision: a.Revision})
	}
	i.forget()
	tell := len(i.waiting) == 0
	i.mu.Unlock()
	if tell {
		i.feed.App(news...)
	}
}

// Forget lets go of what all commits say, as somebody was forgotten who may have written them, and has it asked for anew.
func (i *Index) Forget() {
	i.mu.Lock()
	clear(i.commits)
	for at, l := range i.order {
		if l.Author != "" || l.Title != "" {
			a := l.App
			a.Author, a.Title = "", ""
			l = listedOf(a)
			i.apps[a.ID], i.order[at] = l, l
		}
	}
	i.mu.Unlock()
	i.Ask()
}

// forget lets go of commits that no app is at any more, once they are many. The lock is held.
func (i *Index) forget() {
	if len(i.commits) <= 2*len(i.apps)+1000 {
		return
	}
	has := make(map[string]bool, len(i.apps))
	for _, l := range i.apps {
		has[l.SHA] = true
	}
	for sha := range i.commits {
		if !has[sha] {
			delete(i.commits, sha)
		}
	}
}
