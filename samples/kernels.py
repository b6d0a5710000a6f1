"""The texts of the samples: bodies of operators, and the networks in Relay, the language that they would come from.

`$name` is a scratch buffer, a constant (`$weight`, `$bias`) or a number.
"""

DENSE = """\
  for (int32_t unit_init = 0; unit_init < $units; ++unit_init) {
    $compute_global[unit_init] = 0.000000e+00f;
  }
  for (int32_t k_outer = 0; k_outer < $depth; ++k_outer) {
    for (int32_t unit = 0; unit < $units; ++unit) {
      $compute_global[unit] = ($compute_global[unit] + (p0[k_outer] * $weight[((k_outer * $units) + unit)]));
    }
  }
  for (int32_t unit_1 = 0; unit_1 < $units; ++unit_1) {
    T_add[unit_1] = ($compute_global[unit_1] + $bias[unit_1]);
  }
"""

DENSE_RELU_BY_LANES = """\
  for (int32_t unit = 0; unit < 32; ++unit) {
    for (int32_t lane = 0; lane < 16; ++lane) {
      $T_matmul_rf[((unit * 16) + lane)] = 0.000000e+00f;
      for (int32_t k = 0; k < 4; ++k) {
        int32_t cse_var_1 = ((unit * 16) + lane);
        $T_matmul_rf[cse_var_1] = ($T_matmul_rf[cse_var_1] + (p0[((k * 16) + lane)] * $weight[(((unit * 64) + (k * 16)) + lane)]));
      }
    }
  }
  for (int32_t unit_1 = 0; unit_1 < 32; ++unit_1) {
    $T_matmul[unit_1] = 0.000000e+00f;
    for (int32_t lane_v = 0; lane_v < 16; ++lane_v) {
      $T_matmul[unit_1] = ($T_matmul[unit_1] + $T_matmul_rf[((unit_1 * 16) + lane_v)]);
    }
    float v_ = ($T_matmul[unit_1] + $bias[unit_1]);
    T_relu[unit_1] = ((v_) > (0.000000e+00f) ? (v_) : (0.000000e+00f));
  }
"""

SOFTMAX = """\
  $T_softmax_maxelem[0] = -3.402823e+38f;
  for (int32_t unit = 0; unit < 4; ++unit) {
    float v_ = $T_softmax_maxelem[0];
    float v__1 = p0[unit];
    $T_softmax_maxelem[0] = ((v_) > (v__1) ? (v_) : (v__1));
  }
  $T_softmax_expsum[0] = 0.000000e+00f;
  for (int32_t unit_1 = 0; unit_1 < 4; ++unit_1) {
    $T_softmax_exp[unit_1] = expf((p0[unit_1] - $T_softmax_maxelem[0]));
    $T_softmax_expsum[0] = ($T_softmax_expsum[0] + $T_softmax_exp[unit_1]);
  }
  for (int32_t unit_2 = 0; unit_2 < 4; ++unit_2) {
    T_softmax_norm[unit_2] = ($T_softmax_exp[unit_2] / $T_softmax_expsum[0]);
  }
"""

CONV_RELU = """\
  for (int32_t row = 0; row < 10; ++row) {
    for (int32_t init = 0; init < 80; ++init) {
      $conv2d_NCHWc_global[init] = 0.000000e+00f;
    }
    for (int32_t kh = 0; kh < 3; ++kh) {
      for (int32_t kw = 0; kw < 3; ++kw) {
        for (int32_t ow = 0; ow < 10; ++ow) {
          for (int32_t oc = 0; oc < 8; ++oc) {
            int32_t cse_var_1 = ((ow * 8) + oc);
            $conv2d_NCHWc_global[cse_var_1] = ($conv2d_NCHWc_global[cse_var_1] + (p0[((((row + kh) * 12) + ow) + kw)] * $weight[(((kh * 24) + (kw * 8)) + oc)]));
          }
        }
      }
    }
    for (int32_t ow_1 = 0; ow_1 < 10; ++ow_1) {
      for (int32_t oc_1 = 0; oc_1 < 8; ++oc_1) {
        int32_t cse_var_2 = ((ow_1 * 8) + oc_1);
        float v_ = ($conv2d_NCHWc_global[cse_var_2] + $bias[oc_1]);
        T_relu[((row * 80) + cse_var_2)] = ((v_) > (0.000000e+00f) ? (v_) : (0.000000e+00f));
      }
    }
  }
"""

MAX_POOL = """\
  for (int32_t oh = 0; oh < 5; ++oh) {
    for (int32_t ow = 0; ow < 5; ++ow) {
      for (int32_t c = 0; c < 8; ++c) {
        int32_t cse_var_1 = (((oh * 40) + (ow * 8)) + c);
        pool_max[cse_var_1] = -3.402823e+38f;
        for (int32_t rv0_rv1_fused = 0; rv0_rv1_fused < 4; ++rv0_rv1_fused) {
          float v_ = pool_max[cse_var_1];
          float v__1 = p0[(((((oh * 160) + ((rv0_rv1_fused >> 1) * 80)) + (ow * 16)) + ((rv0_rv1_fused & 1) * 8)) + c)];
          pool_max[cse_var_1] = ((v_) > (v__1) ? (v_) : (v__1));
        }
      }
    }
  }
"""

COPY_PICTURE = """\
  for (int32_t ax2 = 0; ax2 < 12; ++ax2) {
    for (int32_t ax3 = 0; ax3 < 12; ++ax3) {
      int32_t cse_var_1 = ((ax2 * 12) + ax3);
      T_layout_trans[cse_var_1] = p0[cse_var_1];
    }
  }
"""

FLATTEN = """\
  for (int32_t ax1 = 0; ax1 < 200; ++ax1) {
    tensor[ax1] = p0[(((ax1 % 25) * 8) + (ax1 / 25))];
  }
"""

CONCATENATE = """\
  for (int32_t ax1 = 0; ax1 < 32; ++ax1) {
    T_subtract[ax1] = (((int16_t)((24 <= ax1) ? p1[(ax1 - 24)] : p0[ax1])) - (int16_t)$zero_point);
  }
"""

DENSE_INT8 = """\
  for (int32_t unit_init = 0; unit_init < $units; ++unit_init) {
    $compute_global[unit_init] = 0;
  }
  for (int32_t k_outer = 0; k_outer < $depth; ++k_outer) {
    for (int32_t unit = 0; unit < $units; ++unit) {
      $compute_global[unit] = ($compute_global[unit] + (((int32_t)p0[k_outer]) * ((int32_t)$weight[((k_outer * $units) + unit)])));
    }
  }
  for (int32_t unit_1 = 0; unit_1 < $units; ++unit_1) {
    int32_t v_ = ((int32_t)(((((int64_t)($compute_global[unit_1] + $bias[unit_1])) * (int64_t)$multiplier) + ((int64_t)1 << ((int64_t)($shift - 1)))) >> ((int64_t)$shift)))$offset;
    int32_t v__1 = (v_) < (127) ? (v_) : (127);
    $store
  }
"""

TONE_RELAY = """\
def @main(%samples: Tensor[(1, 64), float32]) {
  %0 = nn.dense(%samples, meta[relay.Constant][0], units=None);
  %1 = add(%0, meta[relay.Constant][1]);
  %2 = nn.relu(%1);
  %3 = nn.dense(%2, meta[relay.Constant][2], units=None);
  %4 = add(%3, meta[relay.Constant][3]);
  nn.softmax(%4)
}

"""

GLYPH_RELAY = """\
def @main(%picture: Tensor[(1, 1, 12, 12), float32]) {
  %0 = nn.conv2d(%picture, meta[relay.Constant][0], padding=[0, 0, 0, 0], channels=8, kernel_size=[3, 3]);
  %1 = add(%0, meta[relay.Constant][1]);
  %2 = nn.relu(%1);
  %3 = nn.max_pool2d(%2, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0]);
  %4 = nn.batch_flatten(%3);
  %5 = nn.dense(%4, meta[relay.Constant][2], units=None);
  %6 = add(%5, meta[relay.Constant][3]);
  nn.softmax(%6)
}

"""

MOTOR_RELAY = """\
def @main(%vibration: Tensor[(1, 24), int8], %current: Tensor[(1, 8), int8], output_tensor_names=["wear", "load"]) {
  %0 = (%vibration, %current);
  %1 = concatenate(%0, axis=1);
  %2 = qnn.dense(%1, meta[relay.Constant][0], $zero, 0, 0.5f, 0.012f, units=$units, out_dtype="int32");
  %3 = add(%2, meta[relay.Constant][1]);
  %4 = qnn.requantize(%3, 0.006f, 0, 1f, $hidden_zero, axis=1, out_dtype="int8");
  %5 = qnn.dense(%4, meta[relay.Constant][2], $hidden_zero, 0, 1f, ${wear_scale}f, units=3, out_dtype="int32");
  %6 = add(%5, meta[relay.Constant][3]);
  %7 = qnn.requantize(%6, ${wear_scale}f, 0, 1f, 0, axis=1, out_dtype="int8");
  %8 = qnn.dense(%4, meta[relay.Constant][4], $hidden_zero, 0, 1f, ${load_scale}f, units=1, out_dtype="int32");
  %9 = add(%8, meta[relay.Constant][5]);
  %10 = qnn.requantize(%9, ${load_scale}f, 0, 1f, 0, axis=1, out_dtype="int8");
  (%7, %10)
}

"""
