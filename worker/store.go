package worker

import (
	"github.com/audit-table-archiver/archiver/internal/config"
	"github.com/audit-table-archiver/archiver/internal/objstore"
)

// StoreConfig is the object store as the configuration describes it.
func StoreConfig(c config.S3) objstore.Config {
	return objstore.Config{
		Bucket: c.Bucket, Prefix: c.Prefix, Region: c.Region, Endpoint: c.Endpoint, PathStyle: c.PathStyle,
		AccessKeyID: c.AccessKeyID.Reveal(), SecretAccessKey: c.SecretAccessKey.Reveal(),
		StorageClass: c.StorageClass, SSE: c.SSE, KMSKeyID: c.KMSKeyID,
		MultipartThreshold: c.MultipartThresholdBytes, PartSize: c.MultipartPartBytes,
		Retry: objstore.RetryPolicy{
			MaxAttempts: c.Retry.MaxAttempts, InitialDelay: c.Retry.InitialDelay, MaxDelay: c.Retry.MaxDelay,
			Base: c.Retry.ExponentialBase, Jitter: c.Retry.Jitter,
		},
		Breaker: objstore.BreakerPolicy{Failures: c.CircuitBreaker.FailureThreshold, Recovery: c.CircuitBreaker.RecoveryTimeout},
	}
}
