package encode

// AppendValue lets the external tests and benchmarks reach a single value.
var AppendValue = appendValue

// NewLineBench returns a function that frames and encodes one tuple, over and over in
// the same buffer, and returns the line's length.
func NewLineBench(o Options) (func(tuple []byte) (int, error), error) {
	w := &Writer{}
	if err := w.prepare(o); err != nil {
		return nil, err
	}
	w.framer.state = atTuple
	var buf []byte
	return func(tuple []byte) (int, error) {
		n, _, err := w.framer.next(tuple)
		if err != nil {
			return 0, err
		}
		buf, err = w.appendLine(buf[:0], tuple[:n])
		return len(buf), err
	}, nil
}
