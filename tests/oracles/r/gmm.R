# Linear GMM in base R, by QR throughout: no cross-product matrix is inverted.
#
#   moments        g(b) = Z'(y - X b)/n
#   weight         W = (U'U/n)^-1 for rows U: Z itself (two-stage least squares), sigma Z (unadjusted S),
#                  or Z e (robust S, not centred)
#   estimate       least squares of R^-T Z'y/n on R^-T Z'X/n, with U = Q R sqrt(n)
#   covariance     (G'WG)^-1 G'W S W G (G'WG)^-1 / n with S at the estimate, G = Z'X/n

root <- function(U) {
  n <- nrow(U)
  decomposition <- qr(U, LAPACK = FALSE, tol = 1e-14)
  stopifnot(decomposition$rank == ncol(U), identical(decomposition$pivot, seq_len(ncol(U))))
  qr.R(decomposition) / sqrt(n)
}

whitened <- function(R, a) {
  solved <- backsolve(R, a, transpose = TRUE)
  colnames(solved) <- colnames(a)
  solved
}

gmm <- function(y, X, Z, U) {
  n <- length(y)
  R <- root(U)
  G <- whitened(R, crossprod(Z, X) / n)
  b <- qr.coef(qr(G, tol = 1e-14), whitened(R, crossprod(Z, y) / n))[, 1]
  # what rounding left: the same equations for the residual
  b <- b + qr.coef(qr(G, tol = 1e-14), whitened(R, crossprod(Z, y - X %*% b) / n))[, 1]
  list(b = b, R = R, G = G, e = (y - X %*% b)[, 1])
}

criterion <- function(fit, Z) sum(whitened(fit$R, crossprod(Z, fit$e) / nrow(Z))^2)

# square roots of the diagonal of the sandwich, S = U'U/n at the estimate
sandwich <- function(fit, U) {
  A <- qr.coef(qr(fit$G, tol = 1e-14), whitened(fit$R, t(root(U))))
  sqrt(rowSums(A^2) / nrow(U))
}

minimised_weight <- function(fit) {
  A <- qr.coef(qr(fit$G, tol = 1e-14), diag(nrow(fit$G)))
  sqrt(rowSums(A^2) / length(fit$e))
}

robust <- function(fit, Z) Z * fit$e
unadjusted <- function(fit, Z) Z * sqrt(mean(fit$e^2))

# "name,value" lines with all digits of a double
say <- function(label, values) {
  cat(sprintf("%s,%.17g\n", paste(label, names(values)), values), sep = "")
}
