package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// WriteYAML writes the effective configuration: for each database and each table
// all values that apply to it, in a fixed order. Secrets, and those inside URLs,
// are ***; apart from them the text can be loaded again and means the same.
func (c *Config) WriteYAML(w io.Writer) error {
	node := c.node()
	escapeReferences(node)
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(node), encoder.Close()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// escapeReferences keeps a ${ that is meant literally from being expanded when the
// text is loaded again.
func escapeReferences(node *yaml.Node) {
	node.Value = strings.ReplaceAll(node.Value, "${", "$${")
	for _, n := range node.Content {
		escapeReferences(n)
	}
}

// WriteJSON writes the same as one JSON document.
func (c *Config) WriteJSON(w io.Writer) error {
	var tree any
	if err := c.node().Decode(&tree); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(tree); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// node goes back to the shape of the file and masks what is secret.
func (c *Config) node() *yaml.Node {
	doc := document{
		Control: controlSection(c.Control),
		S3: s3Section{
			Bucket: c.S3.Bucket, Prefix: c.S3.Prefix, Region: c.S3.Region, Endpoint: c.S3.Endpoint, PathStyle: &c.S3.PathStyle,
			AccessKeyID: c.S3.AccessKeyID, SecretAccessKey: c.S3.SecretAccessKey,
			StorageClass: c.S3.StorageClass, SSE: c.S3.SSE, KMSKeyID: c.S3.KMSKeyID,
			MultipartThresholdMB: int(c.S3.MultipartThresholdBytes >> 20), MultipartPartSizeMB: int(c.S3.MultipartPartBytes >> 20),
			Retry: retrySection(c.S3.Retry), CircuitBreaker: breakerSection(c.S3.CircuitBreaker),
		},
		Defaults: defaultsSection{ParallelDatabases: c.MaxParallelDatabases > 1, MaxParallelDatabases: c.MaxParallelDatabases},
		Worker:   workerSection(c.Worker),
		UI:       uiSection(c.UI),
		Log:      logSection(c.Log),
	}
	for _, d := range c.Databases {
		section := databaseSection{
			Name: d.Name, URL: d.Primary, ReadReplica: d.Replica,
			DatabaseKeys: databaseKeys{ConnectionPoolSize: &d.PoolSize, Concurrency: &d.Concurrency},
			Tables:       []tableSection{},
		}
		for _, t := range d.Tables {
			section.Tables = append(section.Tables, tableSection{Name: quoteName(t.Schema) + "." + quoteName(t.Name), Keys: keysOf(t)})
		}
		doc.Databases = append(doc.Databases, section)
	}
	return sectionNode(reflect.ValueOf(doc))
}

func keysOf(t Table) tableKeys {
	windows := []string{}
	for _, w := range t.Throttle.Windows {
		windows = append(windows, w.String())
	}
	return tableKeys{
		Retention: &t.Retention, MinRetention: &t.MinRetention, TimestampColumn: new(quoteName(t.TimestampColumn)),
		Timezone: &t.Timezone, BatchSize: &t.BatchSize,
		AdaptiveBatch: adaptiveSection{
			Enabled: &t.Adaptive.Enabled, MinBatchSize: &t.Adaptive.MinBatchSize,
			MaxBatchSize: &t.Adaptive.MaxBatchSize, TargetQueryTime: &t.Adaptive.TargetQueryTime,
		},
		PartitionBy: &t.PartitionBy, Format: &t.Format, Compression: &t.Compression, CompressionLevel: &t.CompressionLevel,
		Verify: &t.Verify, DeleteGuard: &t.DeleteGuard, MaxBatchBytes: new(byteSize(t.MaxBatchBytes)), Schedule: &t.Schedule,
		MaxReplicaLagMB: &t.MaxReplicaLagMB, ReplicaFallback: &t.ReplicaFallback,
		Throttle: throttleSection{
			MaxRowsPerSecond: &t.Throttle.MaxRowsPerSecond, MaxStandbyLagMB: &t.Throttle.MaxStandbyLagMB,
			MaxSlotLagMB: &t.Throttle.MaxSlotLagMB, MaxActiveSessions: &t.Throttle.MaxActiveSessions,
			Query: &t.Throttle.Query, Windows: &windows,
		},
		VacuumAfterArchival: &t.VacuumAfterArchival, VacuumMode: &t.VacuumMode, Allow: &t.Allow,
	}
}

// sectionNode writes the keys of a section in their order, without those that are
// inherited.
func sectionNode(section reflect.Value) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fieldsOf(section.Type()) {
		v := section.FieldByIndex(f.index)
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				continue
			}
			v = v.Elem()
		}
		value := valueNode(v)
		if (f.omitEmpty && v.IsZero()) || (isSection(f.typ) && len(value.Content) == 0) {
			continue
		}
		node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, value)
	}
	return node
}

func valueNode(v reflect.Value) *yaml.Node {
	switch value := v.Interface().(type) {
	case Secret:
		return scalarNode(Redact(value))
	case time.Duration:
		return scalarNode(formatDuration(value))
	case byteSize:
		return scalarNode(formatSize(value))
	}
	switch v.Kind() { //nolint:exhaustive // the other kinds do not occur or need nothing
	case reflect.Struct:
		return sectionNode(v)
	case reflect.Slice:
		node := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			node.Content = append(node.Content, valueNode(v.Index(i)))
		}
		if !isSectionList(v.Type()) || v.Len() == 0 {
			node.Style = yaml.FlowStyle
		}
		return node
	}
	return scalarNode(v.Interface())
}

func scalarNode(v any) *yaml.Node {
	node := new(yaml.Node)
	_ = node.Encode(v) // text, numbers and switches always can be encoded
	return node
}
