package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const planted = "hunter2secret"

func TestSecretPrintsAsMask(t *testing.T) {
	t.Parallel()
	holder := struct {
		S    Secret
		List []Secret
		Map  map[string]Secret
	}{planted, []Secret{planted}, map[string]Secret{"k": planted}}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s"} {
		out = append(out, fmt.Sprintf(verb, holder), fmt.Sprintf(verb, Secret(planted)), fmt.Sprintf(verb, &holder))
	}
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		b, err := marshal(holder)
		require.NoError(t, err)
		out = append(out, string(b))
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "s", Secret(planted))
	out = append(out, log.String(), fmt.Sprintf("%#v", Secret(planted)), Secret(planted).GoString())
	for _, s := range out {
		require.NotContains(t, s, planted)
		require.NotContains(t, strings.ToLower(s), fmt.Sprintf("%x", planted))
		require.Contains(t, s, "***")
	}
	require.Equal(t, planted, Secret(planted).Reveal())
	require.Empty(t, fmt.Sprint(Secret("")))
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[Secret]string{
		"": "", "anything": "***", "host=h password=p": "***", "mysql://u:p@h/d": "***", "postgres://u:%zz@h": "***",
		"postgres://u@h:1/d": "postgres://u@h:1/d", "postgresql://h/d": "postgresql://h/d",
		"postgres://u:p@h:1/d?sslmode=require":                 "postgres://u:***@h:1/d?sslmode=require",
		"postgres://u:@h/d":                                    "postgres://u:***@h/d",
		"postgres://u:p%40q@h/d?password=p&SSLPassword=x&a=b":  "postgres://u:***@h/d?password=***&SSLPassword=***&a=b",
		"postgres://h/d?pass%77ord=p":                          "postgres://h/d?pass%77ord=***",
		"postgres://u:1?p@h/d":                                 "***",
		"postgres://u:1/p@h/d":                                 "***",
		"postgres://u:1#p@h/d":                                 "***",
		"postgres://u:p@h1:1,h2:2/d?target_session_attrs=any":  "postgres://u:***@h1:1,h2:2/d?target_session_attrs=any",
		"postgres://u%20x:p@[::1]:1/d%20e?options=-c%20a%3Db%": "postgres://u%20x:***@[::1]:1/d%20e?options=-c%20a%3Db%",
	} {
		require.Equal(t, want, Redact(in), in.Reveal())
	}
}

// The secret is planted wherever somebody may put one by right or by mistake.
func TestPlantedSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"good":                 strings.Replace(base, "archiver@", "archiver:"+planted+"@", 2) + "ui: {username: u, password: " + planted + "}\n",
		"good in parameters":   strings.Replace(base, "/orders", "/orders?password="+planted, 1),
		"good by host":         strings.Replace(base, "url: postgres://archiver@localhost:5432/orders", "host: h\n    user: u\n    password: "+planted+"\n    read_replica: \"postgres://u:"+planted+"@r/d\"", 1),
		"good keys":            with("s3", "access_key_id: "+planted+", secret_access_key: "+planted),
		"good expanded":        strings.Replace(base, "archiver@localhost:5432/orders", "archiver:${PW}@localhost:5432/orders", 1),
		"unescaped hash":       strings.Replace(base, "archiver@", "archiver:1#"+planted+"@", 2),
		"unescaped slash":      strings.Replace(base, "archiver@", "archiver:1/"+planted+"@", 2),
		"unescaped question":   strings.Replace(base, "archiver@", "archiver:1?"+planted+"@", 2),
		"unescaped percent":    strings.Replace(base, "archiver@", "archiver:%zz"+planted+"@", 2),
		"unescaped colon":      strings.Replace(base, "archiver@", "archiver:a:/"+planted+"@", 2),
		"unescaped space":      strings.Replace(base, "archiver@", "archiver:a "+planted+"@", 2),
		"bad option":           strings.Replace(base, "archiver@localhost:5432/orders", "u:"+planted+"@h/d?sslmode="+planted, 1),
		"bad port":             strings.Replace(base, "archiver@localhost:5432/orders", "u@h:"+planted+"/d", 1),
		"url in host":          strings.Replace(base, "url: postgres://archiver@localhost:5432/orders", "host: postgres://u:"+planted+"@h/d", 1),
		"url in dbname":        strings.Replace(base, "url: postgres://archiver@localhost:5432/orders", "host: h\n    dbname: \"postgres://u:"+planted+"@h/d\"", 1),
		"url in endpoint":      with("s3", "endpoint: \"https://k:"+planted+"@h\""),
		"replica":              strings.Replace(base, "    tables:", "    read_replica: \"mysql://u:"+planted+"@h\"\n    tables:", 1),
		"unknown key":          with("top", "ui: {passwrd: "+planted+"}"),
		"unknown section":      with("top", "secrets: {a: "+planted+", b: ["+planted+"]}"),
		"value for a map":      with("top", "ui: "+planted),
		"value for a list":     with("defaults", "allow: "+planted),
		"map for a secret":     with("top", "ui: {password: {a: "+planted+"}}"),
		"list for a secret":    with("top", "ui: {password: ["+planted+"]}"),
		"anchor":               with("top", "ui: {password: &"+planted+" x}"),
		"alias":                with("top", "ui: {password: *"+planted+" }"),
		"tag":                  with("top", "ui: {password: !"+planted+" x}"),
		"bad tag":              with("top", "ui: {password: !!int "+planted+"}"),
		"broken":               with("top", "ui: {password: \""+planted),
		"broken again":         with("top", "ui: {password: @"+planted+"}"),
		"duplicate":            with("top", "ui: {password: a, password: "+planted+"}"),
		"expanded elsewhere":   with("top", "log: {level: \"${PW}\"}"),
		"expanded number":      with("top", "worker: {concurrency: \"${PW}\"}"),
		"expanded with prefix": with("top", "log: {format: \"x${PW}\"}"),
		"default of a missing": with("top", "log: {level: \"${NONE:-"+planted+"}\"}"),
		"open reference":       with("top", "ui: {password: \"${"+planted+"\"}"),
		"bad reference":        with("top", "ui: {password: \"${a "+planted+"}\"}"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := loadText(t, content, "PW="+planted, "ARCHIVER_UI_USERNAME=u", "ARCHIVER_UI_PASWORD="+planted+"x")
			require.Error(t, err, "the misspelt variable")
			require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), planted)
			c, err := loadText(t, content, "PW="+planted, "ARCHIVER_UI_USERNAME=u", "ARCHIVER_UI_PASSWORD="+planted)
			if err != nil {
				require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), planted)
				require.False(t, strings.HasPrefix(name, "good"), err)
				return
			}
			var out bytes.Buffer
			require.NoError(t, c.WriteYAML(&out))
			require.NoError(t, c.WriteJSON(&out))
			fmt.Fprintf(&out, "%v %+v %#v", c, c, *c)
			require.NotContains(t, out.String(), planted)
			require.Contains(t, out.String(), "***")
		})
	}
}
