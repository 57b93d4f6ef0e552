package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// folder is a common prefix of keys.
type folder struct {
	folders map[string]*folder
	files   []string
	objects int // here and below
	bytes   int64
}

func (f *folder) add(path []string, bytes int64) {
	f.objects++
	f.bytes += bytes
	if len(path) == 1 {
		f.files = append(f.files, path[0])
		return
	}
	if f.folders == nil {
		f.folders = map[string]*folder{}
	}
	sub := f.folders[path[0]]
	if sub == nil {
		sub = &folder{}
		f.folders[path[0]] = sub
	}
	sub.add(path[1:], bytes)
}

// tree draws the folders of a bucket, each with the number and size of what is in
// it, and as an example the files of the first folder that has two or more.
func tree(bucket string, entries []entry) string {
	root := &folder{}
	for _, e := range entries {
		root.add(strings.Split(e.key, "/"), e.bytes)
	}
	var rows [][2]string
	example := true
	var draw func(name, first, below string, f *folder)
	draw = func(name, first, below string, f *folder) {
		for len(f.folders) == 1 && len(f.files) == 0 {
			for sub, only := range f.folders {
				name, f = name+sub+"/", only
			}
		}
		rows = append(rows, [2]string{first + name, fmt.Sprintf("%8s in %s", size(f.bytes), count(f.objects, "object"))})
		var files []string
		if example && len(f.files) > 1 {
			files, example = f.files, false
		}
		names := slices.Sorted(maps.Keys(f.folders))
		for i, sub := range names {
			branch, on := "├── ", "│   "
			if i == len(names)-1 && len(files) == 0 {
				branch, on = "└── ", "    "
			}
			draw(sub+"/", below+branch, below+on, f.folders[sub])
		}
		for i, file := range files {
			branch := "├── "
			if i == len(files)-1 {
				branch = "└── "
			}
			rows = append(rows, [2]string{below + branch + file, ""})
		}
	}
	draw(bucket+"/", "", "", root)
	return align(rows)
}

// align puts the second column of each row below that of the others. The names
// are of one column a rune.
func align(rows [][2]string) string {
	width := 0
	for _, row := range rows {
		if row[1] != "" {
			width = max(width, len([]rune(row[0])))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := row[0]
		if row[1] != "" {
			line += strings.Repeat(" ", width-len([]rune(line))) + "  " + row[1]
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}
